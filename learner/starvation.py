"""Ends a wait for batches that can never end: nothing stored can be drawn, and nothing more will be inserted.

Configurations that lead there are refused before a run begins where they show it. Tasks that truncate their own
episodes, and imported buffers, only show it here.
"""

from typing import Final

from learner.phase_batches import shares_of_phase
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ReplayTimeout
from upcycle.config.run import PhaseName, RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View

PATIENCE_SECONDS: Final = 20.0  # a shard that is away for a moment may hold transitions that can be drawn


class StarvationCheck:
    """Checks the tables of a phase while their batches do not come."""

    def __init__(self, config: RunConfig, spec: ChunkSpec, view: View) -> None:
        self._config, self._spec, self._view = config, spec, view
        self._since: dict[str, float] = {}

    def check(self, replay: ShardedReplay, phase: PhaseName | None, *, now: float) -> None:
        """Call it about once a second while batches of this phase do not come.

        Args:
          now: monotonic seconds.
        Raises: UserError once a table has been starved for 20 seconds.
        """
        for table in shares_of_phase(self._config, phase) if phase is not None else ():
            try:
                stats = replay.stats(table)
            except ReplayTimeout:  # no shard answers: that passes
                self._since.pop(table, None)
                continue
            if not is_starved(stats, self._view.n_step, self._spec.steps, grows=table == "online"):
                self._since.pop(table, None)
            elif now - self._since.setdefault(table, now) >= PATIENCE_SECONDS:
                raise self._error(table, stats)

    def _error(self, table: str, stats: TableStats) -> UserError:
        n_step = self._view.n_step
        return UserError(
            "learner.n_step",
            n_step,
            f"none of the {stats.num_transitions} transitions of the table {table!r} can be drawn, and no more will "
            f"come: episodes are cut off, or end with what is stored, before {n_step} steps",
            "lower it, raise env.max_episode_steps, or use a buffer of longer episodes",
        )


def is_starved(stats: TableStats, n_step: int, chunk_steps: int, *, grows: bool) -> bool:
    """Whether nothing can be drawn with this horizon and nothing more can be inserted.

    An empty table that does not grow is not starved: the shards that hold its contents are away.

    Args:
      stats: of all shards, one entry for each.
      n_step: horizon of the targets.
      chunk_steps: maximum number of transitions of a chunk.
      grows: whether actors insert into it, as far as the limiter allows.
    """
    shards = stats.shards.values()
    if stats.num_drawable or any(shard.n_step != n_step for shard in shards):
        return False
    if not grows:
        return stats.num_transitions > 0
    return stats.flow.is_filled and not any(shard.flow.may_insert(chunk_steps) for shard in shards)
