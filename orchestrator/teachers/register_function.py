"""Python functions of installed packages become teachers: loaded, tried on real observations, published, played.

entry point -> callable -> observations of random play -> shape, finiteness, determinism, cost -> record -> score
"""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.envs import env_spec, make_lanes
from orchestrator.teachers.importing import parse_environment
from orchestrator.teachers.publishing import score_teacher
from teacher_store.functions import PolicyFunction, find_function
from teacher_store.records.record import Function, TeacherKind, TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.networks.action_names import action_names
from upcycle.runs.runtime import OnGames, Stop, seed_for

_BATCH: Final = 32
_LANES: Final = 4
_ROUNDS: Final = 5
_TOLERANCE: Final = 1e-4
"""Of values of the same state in another batch, relative to the largest: libraries round differently there."""


@dataclass(frozen=True, slots=True)
class RegisterOptions:
    """What the user asks for.

    Attributes:
      entry_point: its name in the group `upcycle.teachers`.
      task: EnvPool task that it plays.
      name: what to call the teacher.
      kind: what the callable returns; None where it says so itself.
      cacheable: whether equal observations always get equal values; None takes what it says, or else no.
      overrides: `env.field=value`, against the protocol's defaults.
      licence: an SPDX identifier.
      episodes: whole games to play for the score; 0 leaves the teacher unscored.
      seed: of these games.
    """

    entry_point: str
    task: str
    name: str
    kind: TeacherKind | None = None
    cacheable: bool | None = None
    overrides: tuple[str, ...] = ()
    licence: str = "NOASSERTION"
    episodes: int = 30
    seed: int = 0


def register_function(
    store: TeacherStore, options: RegisterOptions, *, stop: Stop | None = None, on_games: OnGames | None = None
) -> TeacherRecord:
    """Publishes a callable as a teacher after trying it, and lets it play for its score.

    Raises: UserError if it cannot be found, loaded or called, returns what is no value of each action, is called
      cacheable and is not, or the store has it already. Nothing is published then, but for a score not reached.
    """
    env = parse_environment({"task": options.task}, options.overrides)
    spec = env_spec(env)
    found = find_function(options.entry_point, kind=options.kind, cacheable=options.cacheable)
    if len(found.actions) not in (0, spec.num_actions):
        problem = f"has {spec.num_actions} actions, the function names {len(found.actions)}"
        raise UserError("--task", options.task, problem, "give the task that it plays")
    known = action_names(env)
    if found.actions and known and set(found.actions) != set(known):
        problem = f"has the actions {', '.join(known)}, the function names {', '.join(found.actions)}"
        raise UserError("--task", options.task, problem, "let it name them as the task does, or not at all")
    record = store.publish(
        NewTeacher(
            name=options.name,
            kind=found.kind,
            function=try_function(found, _observations(env, options.seed), spec.num_actions),
            env=env,
            network=None,
            weights=None,
            frame_shape=spec.frame_shape,
            frame_stack=spec.stack,
            num_actions=spec.num_actions,
            actions=found.actions or known,
            licence=options.licence,
        )
    )
    if options.episodes == 0:
        return record
    record, _ = score_teacher(record, store, episodes=options.episodes, seed=options.seed, stop=stop, on_games=on_games)
    return record


def try_function(found: PolicyFunction, observations: Array, num_actions: int) -> Function:
    """What a record says of a callable, its cost on one batch of observations included.

    Raises: UserError if what it returns is no value of each action, or depends on more than the observation although
      it is cacheable: on earlier calls, on chance, or on the rest of the batch.
    """
    values = found.values(observations, num_actions)
    seconds = list[float]()
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        again = found.values(observations, num_actions)
        seconds.append((time.perf_counter() - started) / len(observations))
        if found.cacheable and not np.array_equal(again, values):
            raise _not_cacheable(found, "when it is asked again")
    if found.cacheable:
        half = np.concatenate([found.values(part, num_actions) for part in np.array_split(observations[::-1], 2)])
        if not np.allclose(half[::-1], values, rtol=0, atol=_TOLERANCE * max(1.0, float(np.abs(values).max()))):
            raise _not_cacheable(found, "in another batch")
    return found.describe(seconds_per_state=min(seconds))


def _not_cacheable(found: PolicyFunction, when: str) -> UserError:
    problem = f"is said to be cacheable, but gives other values for the same observation {when}"
    return UserError("function", found.entry_point, problem, "give --no-cacheable, or mend it")


def _observations(env: EnvConfig, seed: int) -> Array:
    """One batch of what random play sees."""
    seed = seed_for(seed, "register", 0)
    rng, seen = np.random.default_rng(seed), list[Array]()
    with make_lanes(env, lanes=_LANES, recv_batch=_LANES, seed=seed, threads=1, training=False) as pool:
        for _ in range(_BATCH // _LANES):
            rows = pool.recv()
            seen.append(rows.observation.copy())
            pool.send(rng.integers(pool.spec.num_actions, size=_LANES), rows.lane)
    return np.concatenate(seen)
