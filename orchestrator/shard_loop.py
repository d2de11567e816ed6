"""A replay shard as one process of a run."""

import dataclasses
from pathlib import Path
from typing import Any, Final

import structlog

from orchestrator.context import Context
from orchestrator.shard_set import ShardSet
from replay_service.server import ReplayShard
from replay_service.types import TableConfig
from upcycle.config import RunConfig
from upcycle.experience_log import ExperienceLogReader, ExperienceLogWriter

_log = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.5


class ShardLoop:
    """A replay shard: seeded first, announced when it can serve.

    What it had accepted before it died, or before the run was stopped, comes back from its own experience log; the
    table `teacher`, its share of the teacher's log, is there where the run has an offline phase; that of a shard which
    is none of those that the run began with is empty. It drains as long as the run's folder says so.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        replay, spec = context.config.replay, context.spec
        directory = context.folder.experience / f"shard-{context.index}"
        own = ExperienceLogReader.open(directory) if (directory / "log.json").exists() else None
        teacher = _teacher_log(context)
        has_teacher = teacher is not None and context.index < replay.num_shards
        tables = [_online_table(context.config, context.shards(), context.index)]
        if teacher is not None:
            chunks = -(-teacher.num_chunks // replay.num_shards) if has_teacher else 0  # its share, rounded up
            tables.append(_teacher_table(context.config, chunks * spec.steps))
        if replay.cold_on_disk:
            folder = context.folder.experience / f"cold-{context.index}"
            tables = [dataclasses.replace(table, cold_folder=str(folder)) for table in tables]
        log = None
        if replay.log_experience:
            log = context.resources.enter_context(ExperienceLogWriter.open(directory, spec, context.config.env))
        self._shard = ReplayShard(
            index=context.index, spec=spec, tables=tables, log=log, metrics=context.metrics, host=context.host
        )
        if own is not None:
            self._shard.seed("online", own, 0, 1, newest_transitions=tables[0].capacity_steps)
        if teacher is not None and has_teacher:
            self._shard.seed("teacher", teacher, context.index, replay.num_shards)

    def run(self) -> None:
        """Serves until the stop signal is set."""
        context = self._context
        self._drain_if_told()
        context.folder.announce_endpoint("replay", context.index, self._shard.start())
        try:
            while not context.stop.wait(_POLL_SECONDS):
                self._drain_if_told()
        finally:
            self._shard.stop(_GRACE_SECONDS)

    def status(self) -> dict[str, Any]:
        """Transitions held and sampled; of `online`, transitions inserted, samples per insert, whether it is full."""
        metrics, stats = self._context.metrics, self._shard.stats("online")
        return {
            "size": metrics.value("replay_size"),
            "num_inserted": metrics.value("replay_inserts_total"),
            "num_sampled": metrics.value("replay_samples_total"),
            "samples_per_insert": metrics.value("replay_samples_per_insert"),
            "full": stats.num_chunks * self._context.spec.steps >= stats.capacity_steps,
            "draining": stats.draining,
        }

    def _drain_if_told(self) -> None:
        try:
            self._shard.drain(self._context.index in self._context.shards().draining)
        except OSError as error:  # unreadable for a moment: what it was told last holds
            _log.warning("shards_unreadable", error=str(error))


def _online_table(config: RunConfig, shards: ShardSet, index: int) -> TableConfig:
    replay = config.replay
    capacity_steps = -(-replay.capacity_steps // replay.num_shards)
    first = -(-replay.min_size_to_sample // shards.num_first)
    return TableConfig(
        name="online",
        capacity_steps=capacity_steps,
        sampler=replay.sampler,
        priority_exponent=replay.priority_exponent,
        stratified=replay.stratified,
        samples_per_insert=replay.samples_per_insert,
        error_buffer_steps=max(1, replay.error_buffer_steps // replay.num_shards),
        min_size_to_sample=0 if shards.has_joined(index) else min(first, capacity_steps),  # see `rate_limiter`
        tier=replay.tier,
        cold_cache_bytes=replay.cold_cache_bytes,
    )


def _teacher_table(config: RunConfig, capacity_steps: int) -> TableConfig:
    return TableConfig(
        name="teacher",
        capacity_steps=max(capacity_steps, 1),
        sampler="uniform",
        priority_exponent=0.0,
        samples_per_insert=None,
        error_buffer_steps=1,
        min_size_to_sample=1,
        tier=config.replay.teacher_tier,
        cold_cache_bytes=config.replay.cold_cache_bytes,
    )


def _teacher_log(context: Context) -> ExperienceLogReader | None:
    teacher = context.manifest["teacher"]
    if teacher is None or teacher["log"] is None:
        return None
    return ExperienceLogReader.open(Path(teacher["log"]))
