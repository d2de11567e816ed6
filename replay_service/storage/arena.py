"""The arena: preallocated slots, each of which holds one chunk, padded to the full number of rows.

All columns lie in one buffer, so that memory shared with another process can take its place: whoever knows the
specification and the number of slots can map the same columns over the same bytes.
"""

import mmap
from typing import Final

import numpy as np

from replay_service.storage.annotations import Annotations, annotation_shapes
from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec
from upcycle.experience.windows import View, Windows, gather_windows

_ALIGNMENT: Final = 64


class Arena:
    """Chunks of one table by slot.

    Attributes:
      frame: [S, rows, *frame_shape].
      columns: the arrays named in `COLUMNS`, each [S, rows]; what lies past a chunk's rows is arbitrary.
      num_rows: int64 [S], rows that each slot holds; 0 is an empty slot.
      generation: int64 [S], which write filled the slot; never the same twice, 0 is none.
      annotations: beside the usable steps; None if `annotation_width` is 0.

    Args:
      annotation_width: floats that a state can be annotated with.
      buffer: `Arena.num_bytes(spec, num_slots, annotation_width)` bytes, zeroed, or those of another arena; what cannot
        be written makes an arena that can be read. None takes anonymous memory, of which the kernel gives each page
        when it is first written.
    """

    def __init__(
        self, spec: ChunkSpec, num_slots: int, *, annotation_width: int = 0, buffer: memoryview | None = None
    ) -> None:
        size = self.num_bytes(spec, num_slots, annotation_width)
        memory = buffer if buffer is not None else memoryview(mmap.mmap(-1, size))
        arrays = dict[str, Array]()
        for name, dtype, shape, offset in _layout(spec, num_slots, annotation_width):
            arrays[name] = np.ndarray(shape, dtype, memory, offset)
        self.spec, self.num_slots = spec, num_slots
        self.frame = arrays.pop("frame")
        self.num_rows, self.generation = arrays.pop("num_rows"), arrays.pop("generation")
        self.columns = {name: arrays[name] for name in COLUMNS}
        self.annotations = Annotations(arrays) if annotation_width else None

    @staticmethod
    def num_bytes(spec: ChunkSpec, num_slots: int, annotation_width: int = 0) -> int:
        """Bytes of an arena's buffer."""
        _, dtype, shape, offset = _layout(spec, num_slots, annotation_width)[-1]
        return offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    @property
    def held_bytes(self) -> int:
        """Memory of the rows that the slots hold."""
        row_bytes = self.spec.frame_bytes + sum(column.itemsize for column in self.columns.values())
        return int(self.num_rows.sum()) * row_bytes

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds; returns how many annotations went with it."""
        rows = chunk.num_rows
        # The generation changes first and last: a reader without our lock sees 0 while the slot is being written.
        self.generation[slot] = 0
        num_cleared = 0 if self.annotations is None else self.annotations.clear(slot)
        self.frame[slot, :rows] = chunk.frame
        # A window that ends with its episode may reach past a short chunk; all tiers then show the same frames.
        self.frame[slot, rows:] = chunk.frame[-1]
        for name, column in self.columns.items():
            column[slot, :rows] = chunk.columns[name]
        self.num_rows[slot] = rows
        self.generation[slot] = generation
        return num_cleared

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Copies the windows of transitions, int64 [B] each; see `gather_windows`."""
        return gather_windows(self.spec, self.frame, self.columns, slots, offsets, view)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes once it is full."""
        width = 0 if self.annotations is None else self.annotations.width
        return self.num_bytes(self.spec, self.num_slots, width)


def _layout(
    spec: ChunkSpec, num_slots: int, annotation_width: int
) -> list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]]:
    """Name, dtype, shape and offset of every array of the buffer, in order."""
    rows = (num_slots, spec.rows)
    arrays = [
        ("num_rows", "int64", (num_slots,)),
        ("generation", "int64", (num_slots,)),
        *((name, dtype, rows) for name, dtype in COLUMNS.items()),
        *annotation_shapes(spec, num_slots, annotation_width),
        ("frame", spec.frame_dtype, (*rows, *spec.frame_shape)),
    ]
    layout, offset = list[tuple[str, np.dtype[np.generic], tuple[int, ...], int]](), 0
    for name, type_name, shape in arrays:
        dtype: np.dtype[np.generic] = np.dtype(type_name)
        layout.append((name, dtype, shape, offset))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        offset += -(-size // _ALIGNMENT) * _ALIGNMENT
    return layout
