"""Environment frames of a run, counted where they arrive."""

from collections.abc import Mapping


class FrameCounter:
    """Environment frames of a run, from the shards' insert counters.

    A shard that restarts counts from 0 again; what it had counted before is kept.

    Attributes:
      total: environment frames so far.
      counters: what each shard had counted when it was last heard of, in transitions.
    """

    def __init__(self, *, frame_skip: int) -> None:
        self._frame_skip = frame_skip
        self.counters: dict[int, int] = {}
        self.total = 0

    def observe(self, inserted: Mapping[int, int]) -> None:
        """Takes in each shard's count of inserted transitions since that shard started."""
        for shard, count in inserted.items():
            before = self.counters.get(shard, 0)
            self.total += (count - before if count >= before else count) * self._frame_skip
            self.counters[shard] = count
