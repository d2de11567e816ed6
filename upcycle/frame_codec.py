"""Frames in LZ4 blocks: compressed once, at the actor, stored and sent as they are, decoded into a learner's batch.

The frames of a chunk are a run of data blocks of the LZ4 frame format, one block per frame:

    size, 4 bytes, little-endian (highest bit: what follows is the frame itself) | LZ4 block, or the frame

Every fourth frame begins a *group* and stands alone; the others may refer to those before them in their group. Frames
of a game differ little from their predecessors, so groups of four halve the bytes and decode faster than single
frames. To see frames a .. b - 1 one takes the blocks from the beginning of the group of a to b, which are neighbours.
Any such runs, one after another between a header and an end mark, are one standard LZ4 frame, so that many windows are
decoded by one call into the library, with Python's lock released.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import lz4.block
import lz4.frame
import numpy as np
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError

Array = NDArray[Any]

GROUP: Final = 4
"""Frames of a group; the first stands alone."""

MAX_FRAME_BYTES: Final = 4 << 20
"""The largest block that the LZ4 frame format knows."""

_SIZE: Final = struct.Struct("<I")
_STORED: Final = 1 << 31
_END_MARK: Final = bytes(4)
_DECODE_BYTES: Final = 1 << 20  # decoded by one call; larger results leave the processor's caches

# The library has no types.
_compress_block = cast(Callable[..., bytes], lz4.block.compress)
_decompress_block = cast(Callable[..., bytes], lz4.block.decompress)
_BlockError = cast(type[Exception], lz4.block.LZ4BlockError)


@dataclass(frozen=True, slots=True, eq=False)
class PackedFrames:
    """Consecutive frames as LZ4 blocks.

    Attributes:
      blob: the blocks.
      bounds: int32 [rows + 1]; the block of frame i, with its size, is the bytes bounds[i] .. bounds[i + 1].
      frame_shape, frame_dtype: of one frame.
    """

    blob: bytes | memoryview
    bounds: Array
    frame_shape: tuple[int, ...]
    frame_dtype: str

    @classmethod
    def pack(cls, frames: Array) -> "PackedFrames":
        """Compresses frames, [rows, *frame_shape]; 1.5 to 6 us a frame of 84x84 pixels.

        Raises: ValueError if a frame is larger than `MAX_FRAME_BYTES`.
        """
        shape, rows = frames.shape[1:], len(frames)
        frame_bytes = _frame_bytes(shape, frames.dtype.str)
        if frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"frames of {frame_bytes} bytes: LZ4 blocks hold {MAX_FRAME_BYTES} at the most")
        raw = np.ascontiguousarray(frames).reshape(-1).view(np.uint8).data
        blocks, bounds = list[bytes | memoryview](), np.zeros(rows + 1, np.int32)
        for row in range(rows):
            begin, end = row * frame_bytes, (row + 1) * frame_bytes
            block = _compress(raw[begin:end], raw[row // GROUP * GROUP * frame_bytes : begin])
            blocks += (_SIZE.pack(len(block) | (_STORED if len(block) == frame_bytes else 0)), block)
            bounds[row + 1] = bounds[row] + _SIZE.size + len(block)
        return cls(b"".join(blocks), bounds, shape, frames.dtype.str)

    @classmethod
    def parse(
        cls, blob: bytes | memoryview, *, rows: int, frame_shape: tuple[int, ...], frame_dtype: str
    ) -> "PackedFrames":
        """Finds the blocks of `rows` frames, which must fill `blob`; what is in them is not looked at.

        Raises: CorruptDataError naming the frame whose block is empty, larger than a frame, or not all there.
        """
        frame_bytes, bounds = _frame_bytes(frame_shape, frame_dtype), np.zeros(rows + 1, np.int32)
        view, at = memoryview(blob), 0
        for row in range(rows):
            if at + _SIZE.size > len(view):
                raise CorruptDataError(f"packed frames refused: frame {row} of {rows} is missing (truncated)")
            size = _SIZE.unpack_from(view, at)[0]
            length = size & ~_STORED
            if not 0 < length <= frame_bytes or (length == frame_bytes) != bool(size & _STORED):
                raise CorruptDataError(
                    f"packed frames refused: the block of frame {row} has {length} bytes, a frame has {frame_bytes}"
                )
            at += _SIZE.size + length
            bounds[row + 1] = at
            if at > len(view):
                raise CorruptDataError(f"packed frames refused: frame {row} runs past the data (truncated)")
        if at != len(view):
            raise CorruptDataError(f"packed frames refused: {len(view) - at} bytes left over after the last frame")
        return cls(blob, bounds, frame_shape, frame_dtype)

    @property
    def num_rows(self) -> int:
        """Frames."""
        return len(self.bounds) - 1

    def unpack(self) -> Array:
        """All frames, [rows, *frame_shape], each block decoded by itself and checked.

        Raises: CorruptDataError naming the frame whose block is damaged or is not exactly one frame.
        """
        frame_bytes = _frame_bytes(self.frame_shape, self.frame_dtype)
        out = np.empty((self.num_rows, *self.frame_shape), self.frame_dtype)
        raw, view = out.reshape(-1).view(np.uint8).data, memoryview(self.blob)
        bounds: list[int] = self.bounds.tolist()
        for row in range(self.num_rows):
            begin, end = row * frame_bytes, (row + 1) * frame_bytes
            block = view[bounds[row] + _SIZE.size : bounds[row + 1]]
            if len(block) == frame_bytes:
                raw[begin:end] = block
                continue
            frame = _decompress(block, raw[row // GROUP * GROUP * frame_bytes : begin], frame_bytes, row)
            if len(frame) != frame_bytes:
                raise CorruptDataError(f"packed frames refused: frame {row} has {len(frame)} bytes, not {frame_bytes}")
            raw[begin:end] = frame
        return out

    def unpack_into(self, out: Array, rows: slice) -> None:
        """Decodes the frames `rows` (no step) into `out`, C-contiguous [len(rows), *frame_shape].

        Raises: CorruptDataError if the blocks are damaged.
        """
        begin, end, _ = rows.indices(self.num_rows)
        run, skip = self.run(begin, end)
        unpack_runs([run], np.array([skip]), np.array([end - begin]), out[None])

    def run(self, begin: int, end: int) -> tuple[memoryview, int]:
        """The blocks needed for frames begin .. end - 1, and how many frames they hold before the first of these."""
        first = begin // GROUP * GROUP
        return memoryview(self.blob)[self.bounds[first] : self.bounds[end]], begin - first


def unpack_runs(runs: Sequence[bytes | memoryview], skips: Array, present: Array, out: Array) -> None:
    """Decodes one run of blocks into each row of `out`.

    Args:
      runs: B runs as `PackedFrames.run` gives them.
      skips: int [B], frames of each run that come before the wanted ones.
      present: int [B], wanted frames that each run holds, from 1 to W; the last one is repeated up to W.
      out: [B, W, *frame_shape], C-contiguous.
    Guarantee: whatever the runs hold, no more memory is taken than skips and present account for.
    Raises: CorruptDataError if a run is damaged, or does not hold as many frames as it should.
    """
    num_runs, width = int(out.shape[0]), int(out.shape[1])
    frame_bytes = _frame_bytes(out.shape[2:], out.dtype.str)
    flat = out.reshape(num_runs, width, frame_bytes // out.itemsize).view(np.uint8)
    frames = (skips + present).astype(np.int64)
    column = np.arange(width)
    wanted = skips[:, None] + np.minimum(column, present[:, None] - 1)  # [B, W]
    per_call = max(_DECODE_BYTES // (max(width, 1) * frame_bytes), 1)
    for begin in range(0, num_runs, per_call):
        part = slice(begin, begin + per_call)
        total = int(frames[part].sum())
        decoded = _decode(runs[part], total * frame_bytes, frame_bytes, f"items {begin} to {part.stop}")
        rows = np.frombuffer(decoded, np.uint8).reshape(total, frame_bytes)
        starts = np.cumsum(frames[part]) - frames[part]
        np.take(rows, starts[:, None] + wanted[part], axis=0, out=flat[part], mode="clip")


def _decode(runs: Sequence[bytes | memoryview], num_bytes: int, frame_bytes: int, place: str) -> bytes:
    """The frames of all runs, `num_bytes` in all; never allocates more than that."""
    decoder = lz4.frame.LZ4FrameDecompressor()
    try:
        data = b"".join((_frame_header(num_bytes, frame_bytes), *runs, _END_MARK))
        decoded = cast(bytes, decoder.decompress(data, max_length=num_bytes))
    except RuntimeError as error:
        raise CorruptDataError(f"packed frames refused: {place} do not decompress ({error})") from error
    if len(decoded) != num_bytes or not decoder.eof or decoder.unused_data:
        raise CorruptDataError(f"packed frames refused: {place} do not hold {num_bytes} bytes, as they should")
    return decoded


@lru_cache(maxsize=256)
def _frame_header(num_bytes: int, frame_bytes: int) -> bytes:
    """Header of an LZ4 frame of linked blocks."""
    # The format's codes for blocks of at most 64 KB, 256 KB, 1 MB and 4 MB.
    block_size = 4 + sum(frame_bytes > limit for limit in (64 << 10, 256 << 10, 1 << 20))
    compressor = lz4.frame.LZ4FrameCompressor(block_size=block_size, block_linked=True)
    return cast(bytes, compressor.begin(source_size=num_bytes))


def _compress(frame: memoryview, before: memoryview) -> bytes | memoryview:
    """The LZ4 block of a frame after those of its group; the frame itself where that is not smaller."""
    known = {"dict": before} if before else {}
    block = _compress_block(frame, store_size=False, **known)
    return block if len(block) < len(frame) else frame


def _decompress(block: memoryview, before: memoryview, frame_bytes: int, row: int) -> bytes:
    known = {"dict": before} if before else {}
    try:
        return _decompress_block(block, uncompressed_size=frame_bytes, **known)
    except _BlockError as error:
        raise CorruptDataError(f"packed frames refused: frame {row} does not decompress ({error})") from error


def _frame_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
