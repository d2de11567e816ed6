"""A teacher's actions and its student's, matched by what they mean. Pure: indices, no arrays.

Of values, those of the actions that a student lacks are left out, and so they are of logits and log-probabilities: the
softmax that follows gives the teacher's policy among the actions that are left.
"""

from typing import Final

from teacher_store.records.record import TeacherRecord
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.networks.action_names import action_names

_AGREED: Final = (
    "task",
    "factory",
    "factory_options",
    "frame_size",
    "frame_stack",
    "frame_skip",
    "stack_fill",
    "sticky_actions",
    "resize_order",
    "interpolation",
)
"""What makes an observation or an action mean something else; the rest of the protocol may differ, and actions may have
other numbers, see `action_order`."""


def action_order(record: TeacherRecord, env: EnvConfig) -> tuple[int, ...] | None:
    """Which of a teacher's outputs are the actions of `env`, in its order; None where they all are, as they come.

    Raises: UserError if `env` has an action that the teacher does not know, or nobody says what the actions mean and
      there are more of them in one of both.
    """
    known, wanted = _names_of(record), action_names(env)
    if not known or not wanted:
        if record.env.full_action_space != env.full_action_space:
            problem = f"teacher {record.id} was trained with {record.env.full_action_space}"
            remedy = f"set env.full_action_space={record.env.full_action_space} or choose another teacher"
            raise UserError("env.full_action_space", env.full_action_space, problem, remedy)
        return None
    if missing := [name for name in wanted if name not in known]:
        problem = f"teacher {record.id} knows {', '.join(known)}, and not {', '.join(missing)}"
        if env.full_action_space and not record.env.full_action_space:
            remedy = "set env.full_action_space=False or choose another teacher"
            raise UserError("env.full_action_space", True, problem, remedy)
        raise UserError("teacher.id", record.id, problem, "choose another teacher")
    return None if known == wanted else tuple(known.index(name) for name in wanted)


def check_agrees(record: TeacherRecord, env: EnvConfig, *, num_actions: int | None = None) -> None:
    """Raises UserError if a student in `env` would see or do something else than the teacher means."""
    for name in _AGREED:
        mine, theirs = getattr(record.env, name), getattr(env, name)
        if mine != theirs:
            problem = f"teacher {record.id} was trained with {mine!r}" + (
                " (wrong frame size)" if name == "frame_size" else ""
            )
            raise UserError(f"env.{name}", theirs, problem, f"set env.{name}={mine} or choose another teacher")
    check_actions(record, env, num_actions)


def check_actions(record: TeacherRecord, env: EnvConfig, num_actions: int | None) -> None:
    """Raises UserError if a teacher cannot say what it thinks of each action of a student in `env`.

    Args:
      num_actions: size of the student's action set, where it is known.
    """
    order = action_order(record, env)
    taught = record.num_actions if order is None else len(order)
    if num_actions not in (None, taught):
        problem = f"teacher {record.id} has {record.num_actions} actions, the environment {num_actions}"
        raise UserError("teacher.id", record.id, problem, "choose a teacher of this environment")


def check_taken_as_is(record: TeacherRecord, env: EnvConfig, *, weights: bool, buffer: bool) -> None:
    """Raises UserError if what a run in `env` takes of a teacher numbers the actions in another way.

    Args:
      weights: it begins with the teacher's.
      buffer: it learns from the teacher's, which has the numbers of the teacher's environment.
    """
    remedy = f"set env.full_action_space={record.env.full_action_space}"
    if weights and action_order(record, env) is not None:
        problem = f"its weights are for the actions {', '.join(_names_of(record))}"
        raise UserError("teacher.reload", record.id, problem, f"{remedy}, or teacher.reload=nothing")
    if buffer and (known := action_names(record.env)) != action_names(env):
        problem = f"its buffer has the actions {', '.join(known)}"
        remedy = f"{remedy}, or leave its buffer out: no phase offline, online.teacher_fraction=0"
        raise UserError("teacher.id", record.id, problem, remedy)


def _names_of(record: TeacherRecord) -> tuple[str, ...]:
    """Those that its record has, or that its environment's actions have; none if they are no names of its outputs."""
    names = record.actions or action_names(record.env)
    return names if len(names) == record.num_actions else ()
