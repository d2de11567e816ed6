"""Windows whose frames are still compressed: from a warm or cold table, decoded in the learner's batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np

from upcycle.errors import CorruptDataError
from upcycle.experience import frame_codec, frame_groups, kernels
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View, fill_stacks

PackedCodec = Literal["lz4", "zstd"]
"""LZ4 blocks (`upcycle.experience.frame_codec`), or zstd groups (`upcycle.experience.frame_groups`)."""

GROUPS: Final[Mapping[PackedCodec, int]] = {"lz4": frame_codec.GROUP, "zstd": frame_groups.GROUP}
"""Frames that refer to each other."""

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
      codec: of the runs.
      blob: the runs of all windows.
      begin, end: where in `blob` the run of each window lies, int64 [B].
      skip, present, opening: as in `PACKED_LAYOUT`, int64 [B].
      view: how they are seen.
    """

    codec: PackedCodec
    blob: bytes
    begin: Array
    end: Array
    skip: Array
    present: Array
    opening: Array
    view: View

    @classmethod
    def of_runs(
        cls, codec: PackedCodec, blob: bytes, sizes: Array, skip: Array, present: Array, opening: Array, view: View
    ) -> Self:
        """Windows whose runs, of so many bytes each, int64 [B], fill `blob` in order."""
        end = np.cumsum(sizes, dtype=np.int64)
        return cls(codec, blob, end - sizes, end, skip, present, opening, view)

    @classmethod
    def from_wire(cls, codec: str, columns: Mapping[str, Array], blob: bytes, view: View) -> Self:
        """Inverse of `columns` and `blob`; copies nothing.

        Raises: CorruptDataError if the codec is unknown, a value is out of range or the runs do not fill `blob`.
        """
        if codec not in GROUPS:
            raise CorruptDataError(f"packed windows refused: codec {codec!r}; this build reads {sorted(GROUPS)}")
        known: PackedCodec = "lz4" if codec == "lz4" else "zstd"
        sizes, skip, present, opening = (columns[name].astype(np.int64) for name in PACKED_LAYOUT)
        width = view.stack + view.n_step
        in_range = (sizes > 0) & (skip < GROUPS[known]) & (present >= 1) & (present <= width) & (opening < view.stack)
        if not bool(in_range.all()) or int(sizes.sum()) != len(blob):
            raise CorruptDataError(f"packed windows refused: {len(blob)} bytes do not hold the {len(sizes)} runs named")
        return cls.of_runs(known, blob, sizes, skip, present, opening, view)

    @property
    def columns(self) -> dict[str, Array]:
        """The columns of `PACKED_LAYOUT`."""
        values = (self.end - self.begin, self.skip, self.present, self.opening)
        return {
            name: value.astype(dtype) for (name, (dtype, _)), value in zip(PACKED_LAYOUT.items(), values, strict=True)
        }

    def take(self, rows: Array) -> "PackedWindows":
        """Some of the windows, by their numbers."""
        places = (self.begin[rows], self.end[rows], self.skip[rows], self.present[rows], self.opening[rows])
        return PackedWindows(self.codec, self.blob, *places, self.view)

    def unpack_into(self, out: Array) -> None:
        """Decodes into `out`, C-contiguous [B, stack + n_step, *frame_shape], as `gather_windows` would fill it.

        Raises: CorruptDataError if the blocks are damaged.
        """
        places = (self.begin, self.end, self.skip, self.present)
        if self.codec == "lz4":
            kernels.unpack_runs(self.blob, *places, group=GROUPS["lz4"], out=out)
        else:
            frame_groups.unpack_group_runs(self.blob, *places, out=out)
        fill_stacks(out, self.opening, self.view)


def unpack_windows(packed: PackedWindows, spec: ChunkSpec) -> Array:
    """The frames in new memory, [B, stack + n_step, *frame_shape]."""
    width = packed.view.stack + packed.view.n_step
    out = np.empty((len(packed.begin), width, *spec.frame_shape), spec.frame_dtype)
    packed.unpack_into(out)
    return out
