"""A shard's arena as a client on the same host sees it: windows are copied straight out of the shard's memory."""

from typing import Self

from replay_service.storage.arena import Arena
from replay_service.storage.shared_memory import SegmentHandle, map_segment
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View, gather_frames, window_values


class MappedArena:
    """The arena of one table of one shard, read-only and without its lock.

    The shard goes on writing while we read, so a window may be torn: its slot overwritten meanwhile. Generations tell,
    for a slot has the wanted one only before and after, never during, a write (`Arena.write`).

    Attributes:
      incarnation: of the table that this is; another one has another arena.
    """

    def __init__(self, arena: Arena, incarnation: int) -> None:
        self._arena, self.incarnation = arena, incarnation

    @classmethod
    def map(
        cls, handle: SegmentHandle, spec: ChunkSpec, *, num_slots: int, incarnation: int, annotation_width: int = 0
    ) -> Self:
        """Maps a shard's segment. Raises: SegmentUnreachable, or ValueError if it does not hold such an arena."""
        if handle.num_bytes != Arena.num_bytes(spec, num_slots, annotation_width):
            raise ValueError(f"{handle.num_bytes} bytes are no arena of {num_slots} slots of these chunks")
        memory = map_segment(handle)
        return cls(Arena(spec, num_slots, annotation_width=annotation_width, buffer=memory), incarnation)

    def values(self, slots: Array, offsets: Array, view: View) -> dict[str, Array]:
        """What transitions hold beside frames: the columns of `wire.sample_layout` that no draw names.

        They are worth nothing where `copy_frames`, called later, finds a row overwritten.
        """
        arena = self._arena
        action, n_step_return, discount = window_values(arena.spec, arena.columns, slots, offsets, view)
        policy_version = arena.columns["policy_version"][slots, offsets + arena.spec.history]
        values = {
            "policy_version": policy_version,
            "action": action,
            "n_step_return": n_step_return,
            "discount": discount,
        }
        if arena.annotations is not None:
            values["annotation"], values["annotated"] = arena.annotations.read(slots, offsets)
        return values

    def copy_frames(self, slots: Array, offsets: Array, generations: Array, view: View, *, out: Array) -> Array:
        """Copies the frames of transitions into `out`; see `gather_frames`.

        Args:
          generations: that the shard named with the draw, int64 [B].
        Returns: bool [B], which rows are whole: nothing of them has been overwritten since the draw.
        """
        arena = self._arena
        gather_frames(arena.spec, arena.frame, arena.columns, slots, offsets, view, out=out)
        return arena.generation[slots] == generations

    def contains(self, slots: Array, offsets: Array) -> bool:
        """Whether these are places of the arena; what a shard names is checked before it is read."""
        inside = (slots >= 0) & (slots < self._arena.num_slots) & (offsets >= 0) & (offsets < self._arena.spec.steps)
        return bool(inside.all())
