"""What a run needs that is not there yet: scores of its teachers and of random play, and buffers that teachers play.

Teachers keep what is made for them here: the next run finds it in the store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.rollout import random_score
from orchestrator.baselines import Baselines
from orchestrator.run.extension_checks import describe_extensions
from orchestrator.run.progress import Progress, View
from orchestrator.run.run_checks import CheckedRun, check_score
from orchestrator.teachers.pretrained_encoder import Encoder
from orchestrator.teachers.publishing import collect_experience, score_teacher
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.config.run import RunConfig
from upcycle.config.teacher_use import has_teacher, wants_teacher_log
from upcycle.experience.chunks import ChunkSpec
from upcycle.runs.runtime import Games, OnGames, StopSignal, seed_for

_RANDOM_EPISODES: Final = 20


@dataclass(frozen=True, slots=True)
class PlannedTeacher:
    """A teacher that fits the run.

    Attributes:
      score: its mean raw return; None of a buffer without a policy.
      log: its experience log; None where the run wants none.
    """

    record: TeacherRecord
    score: float | None
    log: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be started.

    Attributes:
      spec: chunks of the whole run; those of the teachers' logs where there are any.
      teachers: in the order of the configuration; none in a run from scratch.
      store: path or URL of the store that the teachers lie in.
      encoder: what the student's torso begins as; None if it is drawn, or the run has begun long ago.
    """

    config: RunConfig
    spec: ChunkSpec
    baselines: Baselines
    teachers: tuple[PlannedTeacher, ...]
    store: str
    encoder: Encoder | None = None

    @property
    def best(self) -> PlannedTeacher | None:
        """The teacher with the highest score, which is the one to reach; the first of several."""
        scored = [(teacher.score, teacher) for teacher in self.teachers if teacher.score is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def to_manifest(self) -> dict[str, Any]:
        """The keys that the run's processes read."""
        return {
            "chunk_spec": self.spec.to_json(),
            "teacher": None if self.best is None else self._describe(self.best),
            "teachers": [self._describe(teacher) for teacher in self.teachers],
            "random_score": self.baselines.random,
            "extensions": describe_extensions(self.config),
            "encoder": None if self.encoder is None else self.encoder.to_manifest(),
        }

    def _describe(self, teacher: PlannedTeacher) -> dict[str, Any]:
        return {
            "id": teacher.record.id,
            "name": teacher.record.name,
            "score": teacher.score,
            "kind": teacher.record.kind,
            "cacheable": teacher.record.cacheable,
            "store": self.store,
            "log": None if teacher.log is None else str(teacher.log.resolve()),
        }


def prepare_run(checked: CheckedRun, store: TeacherStore, *, stop: StopSignal, view: View) -> Plan:
    """Lets teachers play that have no score, or no buffer where the run wants one, and random play where it is unknown.

    Raises: UserError if a teacher turns out to be no better than random, or if `stop` is set meanwhile.
    """
    config, spec, encoder = checked.config, checked.spec, checked.encoder
    if not has_teacher(config):
        return Plan(config, spec, Baselines(_random_score(config, view), None), (), store.location, encoder)
    records = [_scored(config, record, store, stop=stop, view=view) for record in checked.records]
    baselines = _baselines(config, records, view)
    logs: list[Path | None] = [None] * len(records)
    if wants_teacher_log(config):
        records = [
            _collect(config, record, store, spec, stop=stop, view=view) if record.experience is None else record
            for record in records
        ]
        logs = [store.log_directory(record) for record in records]
    teachers = [PlannedTeacher(record, _score(record), log) for record, log in zip(records, logs, strict=True)]
    return Plan(config, spec, baselines, tuple(teachers), store.location, encoder)


def _scored(
    config: RunConfig, record: TeacherRecord, store: TeacherStore, *, stop: StopSignal, view: View
) -> TeacherRecord:
    if record.score is not None or record.kind == "experience":
        return record
    view.say(f"scoring teacher {record.id}, once")
    return score_teacher(
        record,
        store,
        episodes=config.evaluation.final_episodes,
        seed=config.seed,
        stop=stop,
        on_games=_shown(view, f"teacher {record.id}"),
    )[0]


def _score(record: TeacherRecord) -> float | None:
    return None if record.score is None else record.score.mean_return


def _baselines(config: RunConfig, records: Sequence[TeacherRecord], view: View) -> Baselines:
    """Random play and the best teacher. Raises: UserError if one plays no better than random, unless any are taken."""
    known = [record.random_score for record in records if record.random_score is not None]
    random = known[0] if known else _random_score(config, view)
    for record in records:
        check_score(config, record, random_score=random if record.random_score is None else record.random_score)
    return Baselines(random, max((score for record in records if (score := _score(record)) is not None), default=None))


def _collect(
    config: RunConfig, record: TeacherRecord, store: TeacherStore, spec: ChunkSpec, *, stop: StopSignal, view: View
) -> TeacherRecord:
    assert config.teacher is not None
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


def _random_score(config: RunConfig, view: View) -> float:
    view.say("scoring the random policy")
    seed = seed_for(config.seed, "random", 0)
    return random_score(config.env, _RANDOM_EPISODES, seed, on_games=_shown(view, "random play"))


def _shown(view: View, who: str) -> OnGames:
    """Games of a baseline, as the view shows them."""

    def show(games: Games) -> None:
        view.show(Progress("scoring", games.ended / games.of, env_frames=games.env_frames, detail=who, games=games))

    return show
