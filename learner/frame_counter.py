"""Environment frames of a run, counted where they arrive.

What a shard's log has taken is the truth: a shard tells what earlier incarnations of it had logged, and what it has
inserted itself. So nothing depends on who looked when: not on inserts that came before the learner looked, not on those
that it never saw because it, or the shard, died.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from replay_service.table.types import TableStats

_ELSEWHERE: Final = -1  # stands for a shard: what older versions of Upcycle had counted, which did not say where


@dataclass(frozen=True, slots=True)
class ShardCount:
    """Transitions inserted at one shard, as far as is known.

    Attributes:
      incarnation: that was heard of last; 0 is none.
      before: inserted by those before it.
      inserted: by itself.
    """

    incarnation: int = 0
    before: int = 0
    inserted: int = 0

    @property
    def total(self) -> int:
        """By all incarnations."""
        return self.before + self.inserted

    def follow(self, stats: TableStats) -> "ShardCount":
        """The count once this has been heard. What a shard without a log had inserted before is what was heard of."""
        same = stats.incarnation == self.incarnation
        before = self.before if same else self.total
        if stats.num_inserted_before is not None:
            before = stats.num_inserted_before
        # Replies of one incarnation may have overtaken each other.
        inserted = max(self.inserted, stats.num_inserted) if same else stats.num_inserted
        return ShardCount(stats.incarnation, before, inserted)


class FrameCounter:
    """Environment frames of a run, over all shards that it has or has had, and all their incarnations.

    Guarantee: where shards keep logs, `total` is what those have taken whenever all shards have been heard of.
    """

    def __init__(self, *, frame_skip: int) -> None:
        self._frame_skip = frame_skip
        self._shards: dict[int, ShardCount] = {}

    @property
    def total(self) -> int:
        """Environment frames so far."""
        return self._frame_skip * sum(count.total for count in self._shards.values())

    def observe(self, shards: Mapping[int, TableStats]) -> None:
        """Takes in what shards say now; those that are away stand where they were heard of last."""
        for shard, stats in shards.items():
            self._shards[shard] = self._shards.get(shard, ShardCount()).follow(stats)

    def adopt(self, logged: Mapping[int, int]) -> None:
        """Takes in what the logs of all shards have taken, those that have left included."""
        self._shards.pop(_ELSEWHERE, None)
        self._shards |= {shard: ShardCount(before=count) for shard, count in logged.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        counts = self._shards.items()
        return {"shards": {shard: (count.incarnation, count.before, count.inserted) for shard, count in counts}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; takes the form of older versions too."""
        if "shards" in state:
            self._shards = {shard: ShardCount(*values) for shard, values in state["shards"].items()}
        else:
            self._shards = {_ELSEWHERE: ShardCount(before=state["total"] // self._frame_skip)}
