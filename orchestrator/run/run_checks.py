"""What can be refused of a run before anything is played or written: environment, network, teachers, their logs.

configuration + teacher store --> check_run --> CheckedRun --> preparation.prepare_run --> Plan
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from actors.envs import chunk_spec, env_spec
from learner.distillation import check_teacher
from orchestrator.run.drawing_checks import check_drawing
from orchestrator.run.extension_checks import try_extensions
from orchestrator.teachers.pretrained_encoder import Encoder, find_encoder
from teacher_store.records.action_order import check_agrees, check_taken_as_is
from teacher_store.records.record import TeacherRecord
from teacher_store.records.reload import check_reload
from teacher_store.store.store import TeacherStore
from upcycle.config.run import RunConfig
from upcycle.config.teacher_use import has_teacher, wants_teacher_log, wants_teacher_values, with_protocol_of
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.networks.q_network import build_network

_RANDOM_EPISODES: Final = 20


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run that nothing speaks against, as far as that shows without playing.

    Attributes:
      spec: chunks of the whole run: those of the teachers' logs where it wants them and there is one.
      records: of the teachers, in the order of the configuration; none in a run from scratch.
      encoder: what the student's torso begins as; None if it is drawn, or the run has begun long ago.
    """

    config: RunConfig
    spec: ChunkSpec
    records: tuple[TeacherRecord, ...] = ()
    encoder: Encoder | None = None


def with_teacher_protocol(config: RunConfig, store: TeacherStore) -> RunConfig:
    """The configuration of a new run: what its section `env` leaves out is its teacher's. Raises: UserError."""
    if config.teacher is None or not has_teacher(config):
        return config
    return with_protocol_of(config, store.get(config.teacher.id).env)


def check_run(config: RunConfig, store: TeacherStore, *, begins: bool = True) -> CheckedRun:
    """Checks a run; plays nothing and writes nothing.

    Args:
      begins: False for a run that is resumed: its encoder, taken over long ago, need not be there any more.
    Raises: UserError for an unknown environment, teacher or encoder, a network or teacher that does not fit, a teacher
      that is known to be no better than random or lacks what the run needs, or a run that could not draw;
      CorruptDataError for damaged files.
    """
    spec = chunk_spec(config.env, config.replay.chunk_steps, config.replay.max_n_step)
    try_extensions(config)
    _check_network(config, spec)
    check_drawing(config, spec, frame_skip=env_spec(config.env).frame_skip)
    encoder = find_encoder(config, env_spec(config.env), store) if begins else None
    if not has_teacher(config):
        return CheckedRun(config, spec, encoder=encoder)
    records = _find_teachers(config, store)
    for record in records:
        if record.random_score is not None:
            check_score(config, record, random_score=record.random_score)
    if wants_teacher_log(config):
        spec = _adopted(config, records, store, spec)
    return CheckedRun(config, spec, tuple(records), encoder)


def check_score(config: RunConfig, record: TeacherRecord, *, random_score: float) -> None:
    """Raises UserError if a teacher plays no better than random, unless any are taken."""
    assert config.teacher is not None
    if record.score is not None and not config.teacher.accept_any:
        check_teacher(
            record.id,
            teacher_score=record.score.mean_return,
            random_score=random_score,
            tolerance=config.teacher.tolerance,
        )


def _find_teachers(config: RunConfig, store: TeacherStore) -> list[TeacherRecord]:
    """The run's teachers, each of which fits its environment, and its network if the run is to begin as it."""
    assert config.teacher is not None  # RunConfig demands it
    num_actions, records = env_spec(config.env).num_actions, list[TeacherRecord]()
    for name in (config.teacher.id, *config.teacher.also):
        record = store.get(name)
        check_agrees(record, config.env, num_actions=num_actions)
        if record.id in [known.id for known in records]:
            raise UserError("teacher.also", name, f"is {record.id}, which is named twice", "name each teacher once")
        begins_as = config.teacher.reload != "nothing"
        check_taken_as_is(record, config.env, weights=begins_as, buffer=wants_teacher_log(config))
        records.append(record)
    if config.teacher.reload != "nothing":
        restored = config.teacher.optimizer == "restored"
        check_reload(records[0], config.network, config.learner.optimizer if restored else None)
    _check_policies(config, records)
    return records


def _check_policies(config: RunConfig, records: Sequence[TeacherRecord]) -> None:
    """Raises UserError if a teacher has left a buffer alone and the run needs to know what it would do."""
    mute = [record for record in records if record.kind == "experience"]
    needs = ""
    if wants_teacher_values(config):
        needs, remedy = "imitation", "set distillation.coefficient=0 and margin.coefficient=0"
    elif config.guide.kind != "nobody" and len(mute) == len(records):
        needs, remedy = f"guide.kind={config.guide.kind}", "set guide.kind=nobody"
    else:
        return
    if mute:
        problem = f"is {mute[0].describe_policy()}, and {needs} needs one"
        raise UserError(
            "teacher.id", mute[0].id, problem, f"{remedy} to use its buffer alone, or choose another teacher"
        )


def _check_network(config: RunConfig, spec: ChunkSpec) -> None:
    """Raises UserError if the student's network cannot see the environment's frames."""
    stack = config.env.frame_stack if len(spec.frame_shape) > 1 else 1
    try:
        with torch.device("meta"):  # shapes alone, no weights
            build_network(config.network, frame_shape=spec.frame_shape, stack=stack, num_actions=spec.num_actions)
    except ValueError as error:
        remedy = "set network.kind=mlp for vectors, nature or impala for images, and network.padding=same"
        raise UserError("network.kind", config.network.kind, str(error), remedy) from error


def _adopted(config: RunConfig, records: Sequence[TeacherRecord], store: TeacherStore, spec: ChunkSpec) -> ChunkSpec:
    """The one form of the chunks in the teachers' logs; `spec` where none has a log yet, but may play one."""
    assert config.teacher is not None
    adopted: ChunkSpec | None = None
    for record in records:
        if record.experience is None:
            if config.teacher.collect_frames == 0:
                problem = f"teacher {record.id} has left no experience"
                remedy = "set teacher.collect_frames, or run `upcycle teacher collect`"
                raise UserError("teacher.collect_frames", 0, problem, remedy)
            continue
        theirs = _adopt(spec, store.open_log(record), n_step=config.learner.n_step)
        if adopted not in (None, theirs):
            problem = "its buffer has chunks of another form than that of the other teacher"
            remedy = "collect both anew with `upcycle teacher collect`, or leave it out"
            raise UserError("teacher.also", record.id, problem, remedy)
        adopted = theirs
    return adopted or spec


def _adopt(spec: ChunkSpec, log: ExperienceLogReader, *, n_step: int) -> ChunkSpec:
    """The specification of the teacher's chunks, if this run's views can be taken of them.

    Length of stack and horizon are views: what matters is that the log carries enough rows for them.
    """
    theirs = log.spec
    same = (theirs.frame_shape, theirs.frame_dtype, theirs.num_actions)
    if same != (spec.frame_shape, spec.frame_dtype, spec.num_actions):
        raise UserError("teacher.id", same, "its buffer is of another environment", "collect another one")
    if theirs.lookahead < n_step:
        raise UserError(
            "learner.n_step",
            n_step,
            f"the teacher's buffer serves {theirs.lookahead} steps at most",
            f"set learner.n_step={theirs.lookahead} or collect another buffer",
        )
    if theirs.history < spec.history:
        problem = f"the teacher's buffer serves {theirs.history + 1} frames at most"
        raise UserError("env.frame_stack", spec.history + 1, problem, "collect another buffer")
    return theirs
