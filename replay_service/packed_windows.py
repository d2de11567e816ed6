"""Windows whose frames are still in LZ4 blocks: from a warm table, decoded in the learner's batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from upcycle.chunks import Array, ChunkSpec
from upcycle.errors import CorruptDataError
from upcycle.frame_codec import GROUP, unpack_runs
from upcycle.windows import View, fill_stacks

PACKED_LAYOUT: Final = {
    "run_bytes": ("int32", ()),  # of the item's blocks
    "skip": ("uint8", ()),  # frames in them before the window
    "present": ("uint8", ()),  # frames of the window in them; the last one is repeated
    "opening": ("uint8", ()),  # frames of the window from before its episode's start
}
"""The columns of a packed sample reply that stand in place of `frames`, beside the blocks of all items."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWindows:
    """Frames of B windows.

    Attributes:
      runs: the blocks of each, see `upcycle.frame_codec`.
      skip, present, opening: as in `PACKED_LAYOUT`, int64 [B].
      view: how they are seen.
    """

    runs: Sequence[bytes | memoryview]
    skip: Array
    present: Array
    opening: Array
    view: View

    @classmethod
    def from_wire(cls, columns: Mapping[str, Array], blob: bytes, view: View) -> Self:
        """Inverse of `columns` and `blob`; copies nothing.

        Raises: CorruptDataError if a value is out of range or the runs do not fill `blob`.
        """
        sizes, skip, present, opening = (columns[name].astype(np.int64) for name in PACKED_LAYOUT)
        ends = np.cumsum(sizes)
        width = view.stack + view.n_step
        in_range = (sizes > 0) & (skip < GROUP) & (present >= 1) & (present <= width) & (opening < view.stack)
        if not bool(in_range.all()) or int(sizes.sum()) != len(blob):
            raise CorruptDataError(f"packed windows refused: {len(blob)} bytes do not hold the {len(sizes)} runs named")
        data = memoryview(blob)
        runs = [data[begin:end] for begin, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
        return cls(runs, skip, present, opening, view)

    @property
    def columns(self) -> dict[str, Array]:
        """The columns of `PACKED_LAYOUT`."""
        values = (np.array([len(run) for run in self.runs], np.int32), self.skip, self.present, self.opening)
        return {
            name: value.astype(dtype) for (name, (dtype, _)), value in zip(PACKED_LAYOUT.items(), values, strict=True)
        }

    @property
    def blob(self) -> bytes:
        """The blocks of all windows, one after another."""
        return b"".join(self.runs)

    def take(self, rows: Array) -> "PackedWindows":
        """Some of the windows, by their numbers."""
        chosen: list[int] = rows.tolist()
        runs = [self.runs[row] for row in chosen]
        return PackedWindows(runs, self.skip[rows], self.present[rows], self.opening[rows], self.view)

    def unpack_into(self, out: Array) -> None:
        """Decodes into `out`, C-contiguous [B, stack + n_step, *frame_shape], as `gather_windows` would fill it.

        Raises: CorruptDataError if the blocks are damaged.
        """
        unpack_runs(self.runs, self.skip, self.present, out)
        fill_stacks(out, self.opening, self.view)


def unpack_windows(packed: PackedWindows, spec: ChunkSpec) -> Array:
    """The frames in new memory, [B, stack + n_step, *frame_shape]."""
    width = packed.view.stack + packed.view.n_step
    out = np.empty((len(packed.runs), width, *spec.frame_shape), spec.frame_dtype)
    packed.unpack_into(out)
    return out
