"""Tiers: how the slots of a table keep frames. The small columns are arrays in all of them.

raw   as they are, in the arena, from which clients on the same host copy windows themselves
warm  the LZ4 blocks that the actor made, so that a window is decoded, or sent as it is, by itself
cold  all frames of a chunk together in zstd, in memory or in files; a window costs the decoding of its chunk,
      unless that is among the recently used ones
"""

import sys
from pathlib import Path
from typing import Final, Protocol, get_args

import numpy as np
import zstandard

from replay_service.annotations import Annotations
from replay_service.byte_cache import ByteCache
from replay_service.packed_windows import PackedWindows, unpack_windows
from replay_service.spill_files import Place, SpillFiles
from replay_service.storage import Arena
from replay_service.types import TableConfig, TableDraw, TableSample, Tier
from upcycle.chunks import COLUMNS, Array, Chunk, ChunkSpec
from upcycle.errors import CorruptDataError, UserError
from upcycle.frame_codec import GROUP
from upcycle.windows import View, Windows, fill_stacks, stack_openings, window_rows, window_values

_LEVEL: Final = 1


class Storage(Protocol):
    """What a table asks of a tier.

    Attributes:
      columns: the arrays named in `COLUMNS`, each [S, rows]; what lies past a chunk's rows is arbitrary.
      num_rows: int64 [S], rows that each slot holds; 0 is an empty slot.
      generation: int64 [S], which write filled the slot; never the same twice, 0 is none.
      annotations: beside the usable steps, if states of this table can be annotated.
    """

    spec: ChunkSpec
    num_slots: int
    columns: dict[str, Array]
    num_rows: Array
    generation: Array
    annotations: Annotations | None

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds; where it raises nothing has changed.

        Returns: how many annotations went with what it held.
        """
        ...

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Copies the windows of transitions, int64 [B] each; the same in every tier, bit by bit."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes."""
        ...

    @property
    def held_bytes(self) -> int:
        """Of these, the bytes that the chunks in it take."""
        ...


def make_storage(config: TableConfig, spec: ChunkSpec, num_slots: int, *, buffer: memoryview | None) -> Storage:
    """The storage of a table's tier; `buffer` is for the arena of the tier "raw".

    Raises: UserError if there is no such tier.
    """
    if config.tier not in get_args(Tier):
        raise UserError("replay.tier", config.tier, "there is no such tier", "choose raw, warm or cold")
    width = config.annotation_width
    match config.tier:
        case "raw":
            return Arena(spec, num_slots, annotation_width=width, buffer=buffer)
        case "warm":
            return WarmStorage(spec, num_slots, annotation_width=width)
        case "cold":
            files = SpillFiles(Path(config.cold_folder)) if config.cold_folder is not None else None
            cache_bytes = config.cold_cache_bytes
            return ColdStorage(spec, num_slots, annotation_width=width, files=files, cache_bytes=cache_bytes)


def copy_transitions(storage: Storage, draw: TableDraw, view: View, *, packed: bool) -> TableSample:
    """Copies what transitions hold; their frames in blocks, if `packed` and the tier has them so."""
    spec, place = storage.spec, (draw.slot, draw.offset)
    policy_version = storage.columns["policy_version"][draw.slot, draw.offset + spec.history]
    blocks = None
    if packed and isinstance(storage, WarmStorage):
        blocks = storage.windows(*place, view)
        frames = np.empty((len(draw.slot), 0), spec.frame_dtype)
        windows = Windows(frames, *window_values(spec, storage.columns, *place, view))
    else:
        windows = storage.gather(*place, view)
    if storage.annotations is None:
        return TableSample(draw, windows, policy_version, blocks)
    return TableSample(draw, windows, policy_version, blocks, *storage.annotations.read(*place))


class _Slots:
    """The small columns, and the annotations."""

    def __init__(self, spec: ChunkSpec, num_slots: int, annotation_width: int) -> None:
        self.spec, self.num_slots = spec, num_slots
        self.columns: dict[str, Array] = {
            name: np.zeros((num_slots, spec.rows), dtype) for name, dtype in COLUMNS.items()
        }
        self.num_rows: Array = np.zeros(num_slots, np.int64)
        self.generation: Array = np.zeros(num_slots, np.int64)
        self.annotations = Annotations.zeros(spec, num_slots, annotation_width) if annotation_width else None

    def _write_columns(self, slot: int, chunk: Chunk, generation: int) -> int:
        """Returns how many annotations went with what the slot held."""
        for name, column in self.columns.items():
            column[slot, : chunk.num_rows] = chunk.columns[name]
        self.num_rows[slot], self.generation[slot] = chunk.num_rows, generation
        return 0 if self.annotations is None else self.annotations.clear(slot)

    def _windows(self, frames: Array, slots: Array, offsets: Array, view: View) -> Windows:
        return Windows(frames, *window_values(self.spec, self.columns, slots, offsets, view))

    @property
    def _columns_bytes(self) -> int:
        arrays = (self.num_rows, self.generation, *self.columns.values())
        return sum(array.nbytes for array in arrays) + (0 if self.annotations is None else self.annotations.num_bytes)


class WarmStorage(_Slots):
    """Chunks of one table by slot, frames in LZ4 blocks: one object a slot, whatever its number of frames."""

    def __init__(self, spec: ChunkSpec, num_slots: int, *, annotation_width: int = 0) -> None:
        super().__init__(spec, num_slots, annotation_width)
        self._blobs: list[bytes] = [b""] * num_slots
        self._bounds: Array = np.zeros((num_slots, spec.rows + 1), np.int32)
        self._blob_bytes = 0

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds. Frames that came in blocks are kept as they came; others are compressed now."""
        packed = chunk.packed_frames()
        blob = bytes(packed.blob)
        self._blob_bytes += sys.getsizeof(blob) - (sys.getsizeof(self._blobs[slot]) if self._blobs[slot] else 0)
        self._blobs[slot] = blob
        self._bounds[slot, : chunk.num_rows + 1] = packed.bounds
        return self._write_columns(slot, chunk, generation)

    def windows(self, slots: Array, offsets: Array, view: View) -> PackedWindows:
        """The windows of transitions, int64 [B] each, in blocks."""
        begin = offsets + self.spec.history + 1 - view.stack
        end = np.minimum(begin + view.stack + view.n_step, self.num_rows[slots])
        skip = begin % GROUP
        low, high = self._bounds[slots, begin - skip], self._bounds[slots, end]
        places: list[list[int]] = np.stack([slots, low, high], axis=1).tolist()
        runs = [self._blobs[slot][first:last] for slot, first, last in places]
        return PackedWindows(runs, skip, end - begin, self._openings(slots, offsets, view), view)

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Decodes the windows of transitions, int64 [B] each."""
        return self._windows(unpack_windows(self.windows(slots, offsets, view), self.spec), slots, offsets, view)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes."""
        return self._columns_bytes + self._bounds.nbytes + sys.getsizeof(self._blobs) + self._blob_bytes

    @property
    def held_bytes(self) -> int:
        """Of these, the bytes of all blobs."""
        return self._blob_bytes

    def _openings(self, slots: Array, offsets: Array, view: View) -> Array:
        return stack_openings(self.spec, self.columns, slots, offsets, view)


class ColdStorage(_Slots):
    """Chunks of one table by slot, the frames of each in one zstd frame.

    Args:
      files: where they lie; None keeps them in memory.
      cache_bytes: of decoded frames, of the chunks used last.
    """

    def __init__(
        self,
        spec: ChunkSpec,
        num_slots: int,
        *,
        files: SpillFiles | None,
        cache_bytes: int,
        annotation_width: int = 0,
    ) -> None:
        super().__init__(spec, num_slots, annotation_width)
        self._files = files
        self._places: list[Place | bytes | None] = [None] * num_slots
        self._places_bytes = 0
        self._cache = ByteCache[int, Array](cache_bytes, size=lambda frames: frames.nbytes)
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds. Raises: UserError if the disk is full."""
        blob = self._compressor.compress(np.ascontiguousarray(chunk.frame).data)
        place = blob if self._files is None else self._files.append(blob)
        old = self._places[slot]
        self._places_bytes += sys.getsizeof(place) - (sys.getsizeof(old) if old is not None else 0)
        if self._files is not None and isinstance(old, Place):
            self._files.release(old)
        self._places[slot] = place
        self._cache.discard(slot)
        return self._write_columns(slot, chunk, generation)

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Decodes the windows of transitions, int64 [B] each, every chunk once.

        Raises: CorruptDataError naming the slot if a file has been damaged.
        """
        rows = np.minimum(window_rows(self.spec, offsets, view), self.num_rows[slots][:, None] - 1)
        out = np.empty((*rows.shape, *self.spec.frame_shape), self.spec.frame_dtype)
        order = np.argsort(slots, kind="stable")
        starts = np.flatnonzero(np.diff(slots[order], prepend=-1))
        for items in np.split(order, starts[1:]) if len(order) else []:
            frames = self._frames(int(slots[items[0]]))
            out[items] = frames[rows[items]]
        fill_stacks(out, stack_openings(self.spec, self.columns, slots, offsets, view), view)
        return self._windows(out, slots, offsets, view)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes, the cache included."""
        return self._columns_bytes + sys.getsizeof(self._places) + self._places_bytes + self._cache.num_bytes

    @property
    def held_bytes(self) -> int:
        """Of these, the bytes of all compressed chunks, or of their places in the files."""
        return self._places_bytes

    def _frames(self, slot: int) -> Array:
        """All frames of a slot, [rows, *frame_shape]."""
        cached = self._cache.get(slot)
        if cached is not None:
            return cached
        place = self._places[slot]
        shape = (int(self.num_rows[slot]), *self.spec.frame_shape)
        size = shape[0] * self.spec.frame_bytes
        if isinstance(place, Place):
            assert self._files is not None
            blob = self._files.read(place)
        else:
            assert place is not None, "an empty slot was drawn"
            blob = place
        try:
            data = self._decompressor.decompress(blob, max_output_size=size)
        except zstandard.ZstdError as error:
            raise CorruptDataError(f"slot {slot} of the cold tier does not decompress ({error})") from error
        if len(data) != size:
            raise CorruptDataError(f"slot {slot} of the cold tier holds {len(data)} bytes instead of {size}")
        frames = np.frombuffer(data, self.spec.frame_dtype).reshape(shape)
        self._cache.put(slot, frames)
        return frames
