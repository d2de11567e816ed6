"""A shard's arena as a client on the same host sees it: windows are copied straight out of the shard's memory."""

from typing import Self

from replay_service.shared_memory import SegmentHandle, map_segment
from replay_service.storage import Arena
from upcycle.chunks import Array, ChunkSpec
from upcycle.windows import View, Windows, gather_windows


class MappedArena:
    """The arena of one table of one shard, read-only and without its lock.

    The shard goes on writing while we read, so a window may be torn: its slot overwritten meanwhile. Generations tell,
    for a slot has the wanted one only before and after, never during, a write (`Arena.write`).

    Attributes:
      incarnation: of the table that this is; another one has another arena.
      annotations: of its states, if it has any. Whoever reads them calls `gather` afterwards, which tells the rows that
        have been overwritten meanwhile.
    """

    def __init__(self, arena: Arena, incarnation: int) -> None:
        self._arena, self.incarnation, self.annotations = arena, incarnation, arena.annotations

    @classmethod
    def map(
        cls, handle: SegmentHandle, spec: ChunkSpec, *, num_slots: int, incarnation: int, annotation_width: int = 0
    ) -> Self:
        """Maps a shard's segment. Raises: SegmentUnreachable, or ValueError if it does not hold such an arena."""
        if handle.num_bytes != Arena.num_bytes(spec, num_slots, annotation_width):
            raise ValueError(f"{handle.num_bytes} bytes are no arena of {num_slots} slots of these chunks")
        memory = map_segment(handle)
        return cls(Arena(spec, num_slots, annotation_width=annotation_width, buffer=memory), incarnation)

    def gather(
        self, slots: Array, offsets: Array, generations: Array, view: View, *, out: Array
    ) -> tuple[Windows, Array, Array]:
        """Copies the windows of transitions, their frames into `out`.

        Args: as of `gather_windows`, and the generations that the shard named with the draw, int64 [B].
        Returns: the windows, the policy versions int64 [B], and which of the rows are whole, bool [B].
        """
        arena = self._arena
        windows = gather_windows(arena.spec, arena.frame, arena.columns, slots, offsets, view, out=out)
        policy_version = arena.columns["policy_version"][slots, offsets + arena.spec.history]
        return windows, policy_version, arena.generation[slots] == generations

    def contains(self, slots: Array, offsets: Array) -> bool:
        """Whether these are places of the arena; what a shard names is checked before it is read."""
        inside = (slots >= 0) & (slots < self._arena.num_slots) & (offsets >= 0) & (offsets < self._arena.spec.steps)
        return bool(inside.all())
