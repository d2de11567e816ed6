"""Counts the environment frames of a run where they arrive.

The shards' logs are the truth: a shard reports what its earlier incarnations logged and what it has inserted itself.
So the count does not depend on when the learner looks, nor on inserts that it never saw because it, or a shard, died.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from replay_service.table.table_stats import TableStats

_ELSEWHERE: Final = -1  # a pseudo-shard: the count of an older version, which was not kept by shard


@dataclass(frozen=True, slots=True)
class ShardCount:
    """Transitions inserted at one shard, as far as known.

    Attributes:
      incarnation: the newest one known; 0 before the first.
      before: inserted by earlier incarnations.
      inserted: by this incarnation.
    """

    incarnation: int = 0
    before: int = 0
    inserted: int = 0

    @property
    def total(self) -> int:
        """Inserted by all incarnations."""
        return self.before + self.inserted

    def follow(self, stats: TableStats) -> "ShardCount":
        """The count after this reply. A shard without a log does not know what was inserted before it."""
        same = stats.incarnation == self.incarnation
        before = self.before if same else self.total
        if stats.num_inserted_before is not None:
            before = stats.num_inserted_before
        # Replies of one incarnation may arrive out of order.
        inserted = max(self.inserted, stats.num_inserted) if same else stats.num_inserted
        return ShardCount(stats.incarnation, before, inserted)


class FrameCounter:
    """Environment frames of a run, over all its present and former shards and all their incarnations.

    Guarantee: with logs, `total` equals what they hold whenever all shards have replied.
    """

    def __init__(self, *, frame_skip: int) -> None:
        self._frame_skip = frame_skip
        self._shards: dict[int, ShardCount] = {}

    @property
    def total(self) -> int:
        """Environment frames so far."""
        return self._frame_skip * sum(count.total for count in self._shards.values())

    def observe(self, shards: Mapping[int, TableStats]) -> None:
        """Applies the shards' replies; absent shards keep their last count."""
        for shard, stats in shards.items():
            self._shards[shard] = self._shards.get(shard, ShardCount()).follow(stats)

    def adopt(self, logged: Mapping[int, int]) -> None:
        """Replaces the counts by those of the logs, which include shards that have left."""
        self._shards.pop(_ELSEWHERE, None)
        self._shards |= {shard: ShardCount(before=count) for shard, count in logged.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        counts = self._shards.items()
        return {"shards": {shard: (count.incarnation, count.before, count.inserted) for shard, count in counts}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; also reads the form of older versions."""
        if "shards" in state:
            self._shards = {shard: ShardCount(*values) for shard, values in state["shards"].items()}
        else:
            self._shards = {_ELSEWHERE: ShardCount(before=state["total"] // self._frame_skip)}
