"""`kernels` in Python: for machines without a C compiler, and what the native ones are tested against."""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import lz4.block
import numpy as np
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError

Array = NDArray[Any]
Blobs = Sequence[bytes] | Mapping[int, bytes]

_SIZE: Final = struct.Struct("<I")
_STORED: Final = 1 << 31

# The library has no types.
_compress_block = cast(Callable[..., bytes], lz4.block.compress)
_decompress_block = cast(Callable[..., bytes], lz4.block.decompress)
_BlockError = cast(type[Exception], lz4.block.LZ4BlockError)


def copy_pieces(base: Array, begins: Array, out: Array) -> None:
    """Copies pieces of `base` to `out`, whose bounds the caller has checked."""
    flat = out.reshape(len(out), -1).view(np.uint8)
    for row, begin in enumerate(begins.tolist()):
        flat[row] = base[begin : begin + flat.shape[1]]


def join_pieces(blobs: Blobs, which: Array, lows: Array, highs: Array) -> bytes:
    """Concatenates pieces of `blobs`."""
    places: list[list[int]] = np.stack([which, lows, highs], axis=1).tolist()
    return b"".join(memoryview(blobs[index])[low:high] for index, low, high in places)


def unpack_runs(
    blob: bytes | memoryview, begins: Array, ends: Array, skips: Array, present: Array, group: int, out: Array
) -> int:
    """Decodes runs whose bounds the caller has checked. Returns the number of the first damaged run, or -1."""
    num_runs, width = out.shape[:2]
    flat = out.reshape(num_runs, width, -1).view(np.uint8)
    frame_bytes, view = flat.shape[2], memoryview(blob)
    runs = zip(begins.tolist(), ends.tolist(), skips.tolist(), present.tolist(), strict=True)
    for item, (begin, end, skip, count) in enumerate(runs):
        try:
            frames = b"".join(_frames(view[begin:end], skip + count, frame_bytes, group))
        except CorruptDataError:
            return item
        rows = np.frombuffer(frames, np.uint8).reshape(-1, frame_bytes)
        flat[item, :count] = rows[skip : skip + count]
        flat[item, count:] = flat[item, count - 1]
    return -1


def find_blocks(blob: bytes | memoryview, rows: int, frame_bytes: int) -> Array | None:
    """The bounds of the LZ4 blocks of `rows` frames; None if they do not fill `blob`."""
    bounds, rest = np.zeros(rows + 1, np.int32), memoryview(blob)
    try:
        for row in range(rows):
            length, rest = _block(rest, frame_bytes)
            rest = rest[length:]
            bounds[row + 1] = bounds[row] + _SIZE.size + length
    except CorruptDataError:
        return None
    return None if len(rest) else bounds


def pack_frames(frames: Array, group: int) -> tuple[bytes, Array]:
    """Compresses C-contiguous frames; returns the blocks and their bounds."""
    rows, frame_bytes = len(frames), frames[:1].nbytes
    raw = frames.reshape(-1).view(np.uint8).data
    blocks, bounds = list[bytes | memoryview](), np.zeros(rows + 1, np.int32)
    for row in range(rows):
        begin, end = row * frame_bytes, (row + 1) * frame_bytes
        before = raw[row // group * group * frame_bytes : begin]
        block = _compress_block(raw[begin:end], store_size=False, **({"dict": before} if before else {}))
        stored = len(block) >= frame_bytes
        blocks += (_SIZE.pack(frame_bytes | _STORED if stored else len(block)), raw[begin:end] if stored else block)
        bounds[row + 1] = bounds[row] + _SIZE.size + (frame_bytes if stored else len(block))
    return b"".join(blocks), bounds


def _frames(run: memoryview, count: int, frame_bytes: int, group: int) -> Iterator[bytes]:
    """`count` frames of a run that holds no more."""
    known = b""  # the frames of the group so far
    for row in range(count):
        length, run = _block(run, frame_bytes)
        known = known if row % group else b""
        try:
            frame = (
                bytes(run[:length])
                if length == frame_bytes
                else _decompress_block(
                    run[:length], uncompressed_size=frame_bytes, **({"dict": known} if known else {})
                )
            )
        except _BlockError as error:
            raise CorruptDataError(f"a block that does not decompress ({error})") from error
        if len(frame) != frame_bytes:
            raise CorruptDataError("a block that is not one frame")
        known, run = known + frame, run[length:]
        yield frame
    if len(run):
        raise CorruptDataError("bytes are left over")


def _block(run: memoryview, frame_bytes: int) -> tuple[int, memoryview]:
    """The bytes of a run's first block, and the run from there on."""
    if len(run) < _SIZE.size:
        raise CorruptDataError("a size is missing")
    size, run = _SIZE.unpack_from(run)[0], run[_SIZE.size :]
    length = size & ~_STORED
    if not 0 < length <= frame_bytes or (length == frame_bytes) != bool(size & _STORED) or length > len(run):
        raise CorruptDataError("a block of an impossible size")
    return length, run
