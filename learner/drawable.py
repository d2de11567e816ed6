"""Ends a wait for batches that cannot end: nothing can be drawn, and nothing will come that can.

Configurations that lead there are refused before a run begins, as far as they show. A task that cuts its episodes off
by itself, or a buffer from elsewhere, shows here.
"""

from typing import Final

from learner.phase_batches import shares_of_phase
from replay_service.client.sharded_replay import ReplayTimeout, ShardedReplay
from replay_service.table.types import TableStats
from upcycle.config.run import PhaseName, RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View

_PATIENCE_SECONDS: Final = 20.0  # a shard that is away for a moment may hold what can be drawn


class HopelessWait:
    """Looks at the tables while their batches do not come."""

    def __init__(self, config: RunConfig, spec: ChunkSpec, view: View) -> None:
        self._config, self._spec, self._view = config, spec, view
        self._since: dict[str, float] = {}

    def look(self, replay: ShardedReplay, phase: PhaseName | None, *, now: float) -> None:
        """Call it about once a second, with monotonic seconds, while batches of this phase do not come.

        Raises: UserError once a table has been hopeless for 20 seconds.
        """
        for table in shares_of_phase(self._config, phase) if phase is not None else ():
            try:
                stats = replay.stats(table)
            except ReplayTimeout:  # nobody answers: that passes
                self._since.pop(table, None)
                continue
            if not is_hopeless(stats, self._view.n_step, self._spec.steps, grows=table == "online"):
                self._since.pop(table, None)
            elif now - self._since.setdefault(table, now) >= _PATIENCE_SECONDS:
                raise self._error(table, stats)

    def _error(self, table: str, stats: TableStats) -> UserError:
        n_step = self._view.n_step
        return UserError(
            "learner.n_step",
            n_step,
            f"none of the {stats.num_transitions} transitions of the table {table!r} can be drawn, and none will come: "
            f"episodes are cut off, or end with what is stored, before {n_step} steps",
            "lower it, raise env.max_episode_steps, or take a buffer of longer episodes",
        )


def is_hopeless(stats: TableStats, n_step: int, chunk_steps: int, *, grows: bool) -> bool:
    """Whether nothing can be drawn with this horizon and nothing more comes in: nobody inserts, or nobody may.

    A table that nobody adds to and that holds nothing at all is not: the shards that were given it are away.

    Args:
      stats: of all shards, one entry for each.
      chunk_steps: transitions that a chunk may hold.
      grows: somebody inserts, as long as the limiter lets him.
    """
    shards = stats.shards.values()
    if stats.num_drawable or any(shard.n_step != n_step for shard in shards):
        return False
    if not grows:
        return stats.num_transitions > 0
    return stats.flow.is_filled and not any(shard.flow.may_insert(chunk_steps) for shard in shards)
