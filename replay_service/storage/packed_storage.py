"""Compressed chunks by slot: the tiers warm (LZ4) and cold (zstd, in memory or in files)."""

import sys
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from cachetools import LRUCache

from replay_service.storage.annotations import Annotations
from replay_service.storage.packed_windows import GROUPS, PackedCodec, PackedWindows, unpack_windows
from replay_service.storage.spill_files import Place, SpillFiles
from upcycle.errors import CorruptDataError
from upcycle.experience import frame_groups, kernels
from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec
from upcycle.experience.windows import View, Windows, num_padded_frames, window_values


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

    @property
    def _columns_bytes(self) -> int:
        arrays = (self.num_rows, self.generation, *self.columns.values())
        return sum(array.nbytes for array in arrays) + (0 if self.annotations is None else self.annotations.num_bytes)


class PackedStorage(_Slots):
    """Chunks of one table by slot, frames compressed: one object a slot, whatever its number of frames.

    Args:
      files: where they lie; None keeps them in memory.
      cache_bytes: of chunks read from the files last, as they are there, that are kept in memory.
    """

    def __init__(
        self,
        spec: ChunkSpec,
        num_slots: int,
        *,
        codec: PackedCodec,
        files: SpillFiles | None = None,
        cache_bytes: int = 0,
        annotation_width: int = 0,
    ) -> None:
        super().__init__(spec, num_slots, annotation_width)
        self._codec: PackedCodec = codec
        self._group = GROUPS[codec]
        self._files = files
        self._cache = LRUCache[int, bytes](cache_bytes, getsizeof=sys.getsizeof)
        self._blobs: list[bytes | Place] = [b""] * num_slots
        # Where each block of a slot's frames begins: a block is a frame (lz4) or a group of them (zstd).
        num_blocks = spec.rows if codec == "lz4" else frame_groups.num_groups(spec.rows)
        self._bounds: Array = np.zeros((num_slots, num_blocks + 1), np.int32)
        self._blob_bytes = 0

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds. Blocks that an actor made are kept as they came, where the codec is theirs.

        Raises: UserError if the disk is full.
        """
        if self._codec == "lz4":
            packed = chunk.packed_frames()
            blob, bounds = bytes(packed.blob), packed.bounds
        else:
            blob, bounds = frame_groups.pack_groups(chunk.frame)
        kept, old = blob if self._files is None else self._files.append(blob), self._blobs[slot]
        self._blob_bytes += sys.getsizeof(kept) - (sys.getsizeof(old) if old else 0)
        if self._files is not None and isinstance(old, Place):
            self._files.release(old)
            self._cache.pop(slot, None)
        self._blobs[slot] = kept
        self._bounds[slot, : len(bounds)] = bounds
        return self._write_columns(slot, chunk, generation)

    def windows(self, slots: Array, offsets: Array, view: View) -> PackedWindows:
        """The windows of transitions, int64 [B] each, compressed as they are.

        Raises: CorruptDataError naming the slot if a file has been damaged.
        """
        begin = offsets + self.spec.history + 1 - view.stack
        end = np.minimum(begin + view.stack + view.n_step, self.num_rows[slots])
        skip = begin % self._group
        if self._codec == "lz4":
            low, high = self._bounds[slots, begin - skip], self._bounds[slots, end]
        else:
            low, high = self._bounds[slots, begin // self._group], self._bounds[slots, (end - 1) // self._group + 1]
        low, high = low.astype(np.int64), high.astype(np.int64)
        runs = kernels.join_pieces(self._loaded(slots), slots, low, high)
        openings = num_padded_frames(self.spec, self.columns, slots, offsets, view)
        return PackedWindows.of_runs(self._codec, runs, high - low, skip, end - begin, openings, view)

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Decodes the windows of transitions, int64 [B] each. Raises: as `windows`."""
        frames = unpack_windows(self.windows(slots, offsets, view), self.spec)
        return Windows(frames, *window_values(self.spec, self.columns, slots, offsets, view))

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes, the cache included."""
        index = self._bounds.nbytes + sys.getsizeof(self._blobs)
        return self._columns_bytes + index + self._blob_bytes + int(self._cache.currsize)

    @property
    def held_bytes(self) -> int:
        """Of these, the bytes of all compressed chunks, or of their places in the files."""
        return self._blob_bytes

    def _loaded(self, slots: Array) -> Sequence[bytes] | Mapping[int, bytes]:
        """The compressed chunks of these slots, by slot."""
        if self._files is None:
            return cast(list[bytes], self._blobs)
        return {slot: self._read(slot, self._files) for slot in np.unique(slots).tolist()}

    def _read(self, slot: int, files: SpillFiles) -> bytes:
        if (cached := self._cache.get(slot)) is not None:
            return cached
        place = self._blobs[slot]
        assert isinstance(place, Place), "an empty slot was drawn"
        try:
            blob = files.read(place)
        except CorruptDataError as error:
            raise CorruptDataError(f"slot {slot} of the cold tier: {error}") from error
        if sys.getsizeof(blob) <= self._cache.maxsize:
            self._cache[slot] = blob
        return blob
