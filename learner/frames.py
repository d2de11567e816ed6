"""Environment frames of a run, counted where they arrive."""

from collections.abc import Mapping


class FrameCounter:
    """Environment frames of a run, from the shards' insert counters.

    A shard that restarts counts from 0 again; what it had counted before is kept.
    """

    def __init__(self, *, frame_skip: int) -> None:
        self._frame_skip = frame_skip
        self._counters: dict[int, int] = {}
        self.total = 0

    def observe(self, inserted: Mapping[int, int]) -> None:
        """Takes in each shard's count of inserted transitions since that shard started."""
        for shard, count in inserted.items():
            before = self._counters.get(shard, 0)
            self.total += (count - before if count >= before else count) * self._frame_skip
            self._counters[shard] = count
