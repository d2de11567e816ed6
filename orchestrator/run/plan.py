"""Everything about a run that can be refused is refused here, before anything of it exists.

configuration + teacher store --> teachers that fit, have a buffer and are worth it; baselines; chunk specification
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from actors.envs import chunk_spec, env_spec
from actors.rollout import random_score
from learner.distillation import check_teacher
from orchestrator.baselines import Baselines
from orchestrator.run.drawing_checks import check_drawing
from orchestrator.run.extension_checks import describe_extensions, try_extensions
from orchestrator.run.progress import Progress, View
from orchestrator.teachers.pretrained_encoder import Encoder, find_encoder
from orchestrator.teachers.publishing import collect_experience, score_teacher
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


def with_teacher_protocol(config: RunConfig, store: TeacherStore) -> RunConfig:
    """The configuration of a new run: what its section `env` leaves out is its teacher's. Raises: UserError."""
    if config.teacher is None or not has_teacher(config):
        return config
    return with_protocol_of(config, store.get(config.teacher.id).env)


def make_plan(config: RunConfig, store: TeacherStore, *, stop: StopSignal, view: View, begins: bool = True) -> Plan:
    """Checks everything, and lets teachers play that have left no buffer where the run wants one.

    Args:
      begins: False for a run that is resumed: its encoder, taken over long ago, need not be there any more.
    Raises: UserError for an unknown environment, teacher or encoder, a network or teacher that does not fit, a teacher
      no better than random or without what the run needs, or that could not draw; CorruptDataError for damaged files.
    """
    spec = chunk_spec(config.env, config.replay.chunk_steps, config.replay.max_n_step)
    try_extensions(config)
    _check_network(config, spec)
    check_drawing(config, spec, frame_skip=env_spec(config.env).frame_skip)
    encoder = find_encoder(config, env_spec(config.env), store) if begins else None
    if not has_teacher(config):
        return Plan(config, spec, Baselines(_random_score(config, view), None), (), store.location, encoder)
    records = [_scored(config, record, store, stop=stop, view=view) for record in _find_teachers(config, store)]
    baselines = _baselines(config, records, view)
    logs: list[Path | None] = [None] * len(records)
    if wants_teacher_log(config):
        records, spec = _with_experience(config, records, store, spec, stop=stop, view=view)
        logs = [store.log_directory(record) for record in records]
    teachers = [PlannedTeacher(record, _score(record), log) for record, log in zip(records, logs, strict=True)]
    return Plan(config, spec, baselines, tuple(teachers), store.location, encoder)


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
    assert config.teacher is not None
    known = [record.random_score for record in records if record.random_score is not None]
    random = known[0] if known else _random_score(config, view)
    scored = [(record, score) for record in records if (score := _score(record)) is not None]
    if not config.teacher.accept_any:
        for record, score in scored:
            check_teacher(
                record.id,
                teacher_score=score,
                random_score=random if record.random_score is None else record.random_score,
                tolerance=config.teacher.tolerance,
            )
    return Baselines(random, max((score for _, score in scored), default=None))


def _with_experience(
    config: RunConfig,
    records: Sequence[TeacherRecord],
    store: TeacherStore,
    spec: ChunkSpec,
    *,
    stop: StopSignal,
    view: View,
) -> tuple[list[TeacherRecord], ChunkSpec]:
    """The teachers, all with experience, and the one form of its chunks; who has none plays now, in that form."""
    complete, adopted = list(records), None
    for number in sorted(range(len(records)), key=lambda number: records[number].experience is None):
        record = records[number]
        if record.experience is None:
            record = complete[number] = _collect(config, record, store, adopted or spec, stop=stop, view=view)
        theirs = _adopt(spec, store.open_log(record), n_step=config.learner.n_step)
        if adopted not in (None, theirs):
            raise UserError(
                "teacher.also",
                record.id,
                "its buffer has chunks of another form than that of the other teacher",
                "collect both anew with `upcycle teacher collect`, or leave it out",
            )
        adopted = theirs
    return complete, adopted or spec


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
        problem = f"the teacher's buffer serves {theirs.history + 1} frames at most"
        raise UserError("env.frame_stack", spec.history + 1, problem, "collect another buffer")
    return theirs


def _random_score(config: RunConfig, view: View) -> float:
    view.say("scoring the random policy")
    seed = seed_for(config.seed, "random", 0)
    return random_score(config.env, _RANDOM_EPISODES, seed, on_games=_shown(view, "random play"))


def _shown(view: View, who: str) -> OnGames:
    """Games of a baseline, as the view shows them."""

    def show(games: Games) -> None:
        view.show(Progress("scoring", games.ended / games.of, env_frames=games.env_frames, detail=who, games=games))

    return show
