"""Everything about a run that can be refused is refused here, before anything of it exists.

configuration + teacher store --> teacher that fits, has a buffer and is worth it; baselines; chunk specification
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.envs import chunk_spec, env_spec
from actors.rollout import random_score
from learner.distillation import check_teacher
from orchestrator.baselines import Baselines
from orchestrator.progress import Progress, View
from orchestrator.teachers import collect_experience, score_teacher
from teacher_store.records import TeacherRecord
from teacher_store.store import TeacherStore
from upcycle.chunks import ChunkSpec
from upcycle.config import RunConfig
from upcycle.errors import UserError
from upcycle.experience_log import ExperienceLogReader
from upcycle.runtime import StopSignal, seed_for

_RANDOM_EPISODES: Final = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be started.

    Attributes:
      spec: chunks of the whole run; those of the teacher's log where there is an offline phase.
      teacher: None in a run from scratch.
      log: the teacher's experience log; None without an offline phase.
      store: root of the store that the teacher lies in.
    """

    config: RunConfig
    spec: ChunkSpec
    baselines: Baselines
    teacher: TeacherRecord | None
    log: Path | None
    store: Path

    def to_manifest(self) -> dict[str, Any]:
        """The keys that the run's processes read."""
        teacher = None
        if self.teacher is not None:
            teacher = {
                "id": self.teacher.id,
                "name": self.teacher.name,
                "score": self.baselines.teacher,
                "store": str(self.store.resolve()),
                "log": None if self.log is None else str(self.log.resolve()),
            }
        return {"chunk_spec": self.spec.to_json(), "teacher": teacher, "random_score": self.baselines.random}


def make_plan(config: RunConfig, store: TeacherStore, *, stop: StopSignal, view: View) -> Plan:
    """Checks everything, and lets the teacher play where it has left no buffer.

    Raises: UserError for an unknown environment or teacher, a teacher that does not fit the environment, is not above
      the random policy or has no experience; CorruptDataError for damaged weights or logs.
    """
    spec = chunk_spec(config.env, config.replay.chunk_steps, config.replay.max_n_step)
    if not set(config.phases) & {"offline", "online"}:
        return Plan(config, spec, Baselines(_random_score(config, view), None), None, None, store.root)
    assert config.teacher is not None  # RunConfig demands it
    record = store.get(config.teacher.id)
    record.check_agrees(config.env, num_actions=env_spec(config.env).num_actions)
    if record.score is None:
        view.say(f"scoring teacher {record.id}, once")
        record = score_teacher(record, store, episodes=config.evaluation.final_episodes, seed=config.seed, stop=stop)
    assert record.score is not None
    random = record.random_score if record.random_score is not None else _random_score(config, view)
    baselines = Baselines(random, record.score.mean_return)
    check_teacher(teacher_score=record.score.mean_return, random_score=random, tolerance=config.teacher.tolerance)
    if "offline" not in config.phases:
        return Plan(config, spec, baselines, record, None, store.root)
    if record.experience is None:
        record = _collect(config, record, store, spec, stop=stop, view=view)
    log = store.open_log(record)
    return Plan(
        config,
        _adopt(spec, log, n_step=config.learner.n_step),
        baselines,
        record,
        store.log_directory(record),
        store.root,
    )


def _collect(
    config: RunConfig, record: TeacherRecord, store: TeacherStore, spec: ChunkSpec, *, stop: StopSignal, view: View
) -> TeacherRecord:
    assert config.teacher is not None
    if config.teacher.collect_frames == 0:
        raise UserError(
            "teacher.collect_frames",
            0,
            f"teacher {record.id} has left no experience",
            "set teacher.collect_frames, or run `upcycle teacher collect`",
        )
    view.say(f"teacher {record.id} plays {config.teacher.collect_frames:,} frames, to leave a buffer")
    return collect_experience(
        record,
        store,
        frames=config.teacher.collect_frames,
        epsilons=config.teacher.collect_epsilons,
        seed=seed_for(config.seed, "collect", 0),
        spec=spec,
        stop=stop,
        on_progress=lambda done, total: view.show(Progress("collecting", done / total, env_frames=done)),
    )


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
        raise UserError(
            "env.frame_stack",
            spec.history + 1,
            f"the teacher's buffer serves {theirs.history + 1} frames at most",
            "collect another buffer",
        )
    return theirs


def _random_score(config: RunConfig, view: View) -> float:
    view.say("scoring the random policy")
    return random_score(config.env, _RANDOM_EPISODES, seed_for(config.seed, "random", 0))
