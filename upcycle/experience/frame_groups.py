"""Frames in zstd groups: a half to a third of the bytes of LZ4 blocks, for buffers that would not fit in memory.

The frames of a chunk are split into groups of 16; each group is one zstd frame after its size, 4 bytes little-endian.
Frames a .. b - 1 need the contiguous groups that contain them: a *run*. A group is decoded as a whole, so larger groups
compress better and are slower to read (docs/decisions.md).
"""

import struct
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError

Array = NDArray[Any]

GROUP: Final = 16
"""Frames of a group; the last group of a chunk may have fewer."""

_LEVEL: Final = 1
_SIZE: Final = struct.Struct("<I")


def pack_groups(frames: Array) -> tuple[bytes, Array]:
    """Compresses frames, [rows, *frame_shape].

    Returns: the groups, and int32 [groups + 1]: group i, with its size, is the bytes bounds[i] .. bounds[i + 1].
    """
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    blocks = [
        compressor.compress(np.ascontiguousarray(frames[at : at + GROUP]).data) for at in range(0, len(frames), GROUP)
    ]
    bounds = np.cumsum([0, *(_SIZE.size + len(block) for block in blocks)], dtype=np.int32)
    return b"".join(part for block in blocks for part in (_SIZE.pack(len(block)), block)), bounds


def num_groups(rows: int) -> int:
    """Number of groups of `rows` frames."""
    return -(-rows // GROUP)


def unpack_group_runs(
    blob: bytes | memoryview, begins: Array, ends: Array, skips: Array, present: Array, *, out: Array
) -> None:
    """Decodes one run of groups into each row of `out`, as `kernels.unpack_runs` does with LZ4 blocks.

    Args:
      begins, ends, skips, present: int64 [B].
      out: [B, W, *frame_shape], C-contiguous.
    Guarantee: whatever the runs contain, at most one group is decoded at a time.
    Raises: CorruptDataError if a run is damaged or does not hold as many frames as it should.
    """
    num_runs, width = out.shape[:2]
    if not num_runs:
        return
    flat = out.reshape(num_runs, width, -1).view(np.uint8)
    if bool(((skips < 0) | (skips >= GROUP) | (present < 1) | (present > width)).any()):
        raise CorruptDataError("packed frames refused: a run holds no window")
    decompressor, view = zstandard.ZstdDecompressor(), memoryview(blob)
    runs = zip(begins.tolist(), ends.tolist(), skips.tolist(), present.tolist(), strict=True)
    for item, (begin, end, skip, count) in enumerate(runs):
        rest = view[begin:end]
        for row in range(-skip, count, GROUP):  # of the window, at which each group begins
            frames, rest = _next_group(decompressor, rest, flat.shape[2])
            wanted = slice(max(row, 0), min(row + GROUP, count))
            if row + len(frames) < wanted.stop:
                raise CorruptDataError(f"packed frames refused: a group of item {item} holds too few frames")
            flat[item, wanted] = frames[wanted.start - row : wanted.stop - row]
        if len(rest):
            raise CorruptDataError(f"packed frames refused: item {item} has bytes left over after its last group")
        flat[item, count:] = flat[item, count - 1]


def _next_group(
    decompressor: zstandard.ZstdDecompressor, run: memoryview, frame_bytes: int
) -> tuple[Array, memoryview]:
    """The frames of a run's first group, uint8 [rows, frame_bytes], and the rest of the run."""
    size = _SIZE.unpack_from(run)[0] if len(run) >= _SIZE.size else 0
    block, rest = run[_SIZE.size : _SIZE.size + size], run[_SIZE.size + size :]
    if not size or len(block) < size:
        raise CorruptDataError("packed frames refused: a group is missing (truncated)")
    try:
        content = zstandard.frame_content_size(block)  # zstd writes at most this many bytes
        if not 0 < content <= GROUP * frame_bytes or content % frame_bytes:
            raise CorruptDataError(f"packed frames refused: a group of {content} bytes, a frame has {frame_bytes}")
        data = decompressor.decompress(block)
    except zstandard.ZstdError as error:
        raise CorruptDataError(f"packed frames refused: a group does not decompress ({error})") from error
    return np.frombuffer(data, np.uint8).reshape(-1, frame_bytes), rest
