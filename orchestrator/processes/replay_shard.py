"""A replay shard as one process of a run."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from orchestrator.processes.context import Context
from orchestrator.processes.table_configs import annotation_width, online_table, share_capacity, teacher_table
from replay_service.server.shard import ReplayShard
from upcycle.config.teacher_use import begins_with_teacher_replay, wants_teacher_table
from upcycle.errors import UserError
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter

_log = structlog.get_logger(__name__)

_GRACE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.5
_TRIM_SECONDS: Final = 10.0


class ShardLoop:
    """A replay shard: seeded first, announced when it can serve.

    What it had accepted before it died, or before the run was stopped, comes back from its own experience log. Where
    the run wants them, the newest part of the teachers' logs is the table `teacher`, or what the table `online` begins
    with: each shard has its share of each log, and the same one in the same order after every start. A shard which is
    none of those that the run began with has no share. It drains as long as the run's folder says so. Of its experience
    log it keeps its part of `replay.log_keep_steps`, and what it would be filled from if it were started again.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        config, spec = context.config, context.spec
        context.metrics.waits.waiting("start", "it reads the logs that it begins with")
        logs, own = _teacher_logs(context), _own_log(context)
        self._trim_at = 0.0
        self._has_share = context.index < config.replay.num_shards
        num_kept = sum(bool(known.get("cacheable", True)) for known in context.teachers)  # not said by older versions
        width = annotation_width(config, num_actions=spec.num_actions, num_teachers=num_kept)
        tables = [online_table(config, context.shards(), context.index, width=width)]
        newest = share_capacity([log.num_transitions for log in logs], config.replay.teacher_capacity_steps)
        if wants_teacher_table(config):
            num_chunks = sum(map(self._count_share, logs, newest)) if self._has_share else 0
            tables.append(teacher_table(config, num_chunks * spec.steps, width=width))
        if config.replay.cold_on_disk:
            folder = context.folder.experience / f"cold-{context.index}"
            tables = [dataclasses.replace(table, cold_folder=str(folder)) for table in tables]
        log = None
        if config.replay.log_experience:
            writer = ExperienceLogWriter.open(_log_directory(context), spec, config.env)
            log = context.resources.enter_context(writer)
        self._shard = ReplayShard(
            index=context.index, spec=spec, tables=tables, log=log, metrics=context.metrics, host=context.host
        )
        self._capacity_steps = tables[0].capacity_steps
        self._seed_online(logs, own, self._capacity_steps)
        if wants_teacher_table(config):
            for teacher, transitions in zip(logs, newest, strict=True):
                self._seed_share("teacher", teacher, transitions)

    def _count_share(self, log: ExperienceLogReader, newest_transitions: int) -> int:
        """Chunks in this shard's share of the newest transitions of a log, at the most."""
        return -(-log.count_newest(newest_transitions) // self._context.config.replay.num_shards)

    def _seed_online(self, logs: Sequence[ExperienceLogReader], own: ExperienceLogReader | None, capacity: int) -> None:
        """Stores what the run begins with, as much as its own experience leaves room for, and then that."""
        if begins_with_teacher_replay(self._context.config):
            room = max(capacity - (0 if own is None else own.num_transitions), 0)
            self._seed_share("online", logs[0], room * self._context.config.replay.num_shards)
        if own is not None:
            self._shard.seed("online", own, 0, 1, newest_transitions=capacity)

    def _seed_share(self, table: str, log: ExperienceLogReader, newest_transitions: int) -> None:
        if self._has_share:
            num_shards = self._context.config.replay.num_shards
            self._shard.seed(table, log, self._context.index, num_shards, newest_transitions)

    def run(self) -> None:
        """Serves until the stop signal is set."""
        context = self._context
        self._drain_if_told()
        context.folder.announce_endpoint("replay", context.index, self._shard.start())
        try:
            while not context.stop.wait(_POLL_SECONDS):
                self._drain_if_told()
                self._trim_log()
                self._measure()
        finally:
            self._shard.stop(_GRACE_SECONDS)

    def status(self) -> dict[str, Any]:
        """Transitions held and sampled; of `online`, transitions inserted, samples per insert, whether it is full."""
        metrics, stats, fill = self._context.metrics, self._shard.stats("online"), self._fill()
        return {
            "size": metrics.value("replay_size"),
            "num_inserted": metrics.value("replay_inserts_total"),
            "num_sampled": metrics.value("replay_samples_total"),
            "samples_per_insert": metrics.value("replay_samples_per_insert"),
            "log_bytes": metrics.value("replay_log_held_bytes"),
            "num_stored": stats.num_transitions,
            "fill": fill,
            "full": fill >= 1,
            "oldest_seconds": self._shard.oldest_seconds("online"),
            "draining": stats.draining,
        }

    def _fill(self) -> float:
        """Chunks of `online`, of those that it can hold."""
        stats = self._shard.stats("online")
        return stats.num_chunks * self._context.spec.steps / stats.capacity_steps

    def _measure(self) -> None:
        oldest = self._shard.oldest_seconds("online")
        self._context.metrics.set("replay_fill_ratio", self._fill())
        self._context.metrics.set("replay_oldest_seconds", math.nan if oldest is None else oldest)

    def _trim_log(self) -> None:
        """Now and then; on a full disk the log stays as it is, and whoever writes next says why."""
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + _TRIM_SECONDS
        wanted = self._context.config.replay.log_keep_steps
        try:
            num_taking = max(len(self._context.shards().taking), 1)
            keep = max(-(-wanted // num_taking), self._capacity_steps) if wanted else None
            self._context.metrics.set("replay_log_held_bytes", self._shard.trim_log(keep))
        except (OSError, UserError) as error:
            _log.warning("log_not_trimmed", error=str(error))

    def _drain_if_told(self) -> None:
        try:
            self._shard.drain(self._context.index in self._context.shards().draining)
        except OSError as error:  # unreadable for a moment: what it was told last holds
            _log.warning("shards_unreadable", error=str(error))


def _own_log(context: Context) -> ExperienceLogReader | None:
    """What this shard had accepted before it died, or before the run was stopped."""
    directory = _log_directory(context)
    return ExperienceLogReader.open(directory) if (directory / "log.json").exists() else None


def _log_directory(context: Context) -> Path:
    return context.folder.experience / f"shard-{context.index}"


def _teacher_logs(context: Context) -> list[ExperienceLogReader]:
    """The teachers' logs, in the order of the manifest; none where this run wants none."""
    return [ExperienceLogReader.open(Path(known["log"])) for known in context.teachers if known["log"] is not None]
