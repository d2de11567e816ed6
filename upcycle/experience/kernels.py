"""The byte loops that replay's speed depends on: native if they are built, else plain Python.

`native` tells which run; both produce the same bytes. The native ones (`kernels.c`) are built at installation, or by
the first process that finds them missing and has a C compiler. They call the lz4 package's C functions and release the
GIL.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError
from upcycle.experience import native_kernels, plain_kernels

Array = NDArray[Any]

why_plain: Final = native_kernels.why_not
"""Why the plain kernels run; empty when the native ones do."""

native: Final = not why_plain

_kernels = native_kernels if native else plain_kernels


def copy_pieces(base: Array, begins: Array, out: Array) -> None:
    """Copies pieces of equal size, one after another, to `out`.

    Args:
      base: uint8 [bytes], C-contiguous.
      begins: int64 [N], the first byte of each piece.
      out: C-contiguous [N, ...]; each row takes as many bytes as it has.
    Raises: ValueError if a piece does not lie in `base`.
    """
    piece_bytes = out[:1].nbytes
    if len(begins) and not 0 <= int(begins.min()) <= int(begins.max()) <= base.nbytes - piece_bytes:
        raise ValueError("pieces lie outside the array that they are copied from")
    if len(begins):
        _kernels.copy_pieces(base, np.ascontiguousarray(begins, np.int64), out)


def join_pieces(blobs: plain_kernels.Blobs, which: Array, lows: Array, highs: Array) -> bytes:
    """Concatenates the bytes lows[i] .. highs[i] of blobs[which[i]]. All int64 [N]."""
    return _kernels.join_pieces(blobs, which, lows, highs)


def unpack_runs(
    blob: bytes | memoryview, begins: Array, ends: Array, skips: Array, present: Array, *, group: int, out: Array
) -> None:
    """Decodes one run of LZ4 blocks, as `upcycle.experience.frame_codec` describes them, into each row of `out`.

    Args:
      begins, ends: int64 [B], where in `blob` each run lies.
      skips: int64 [B], frames of each run that come before the wanted ones, below `group`.
      present: int64 [B], wanted frames that each run holds, from 1 to W; the last one is repeated up to W.
      group: frames that may refer to each other.
      out: [B, W, *frame_shape], C-contiguous.
    Guarantee: whatever the runs contain, nothing outside `out` and a group of frames is written.
    Raises: CorruptDataError naming the first run that is damaged or does not hold as many frames as it should.
    """
    assert out.flags.c_contiguous
    width = out.shape[1]
    places = [np.ascontiguousarray(values, np.int64) for values in (begins, ends, skips, present)]
    begins, ends, skips, present = places
    inside = (begins >= 0) & (begins <= ends) & (ends <= len(blob))
    inside &= (skips >= 0) & (skips < group) & (present >= 1) & (present <= width)
    if not bool(inside.all()):
        raise CorruptDataError("packed frames refused: a run does not lie in the data, or holds no window")
    if not len(begins):
        return
    damaged = _kernels.unpack_runs(blob, begins, ends, skips, present, group, out)
    if damaged >= 0:
        raise CorruptDataError(f"packed frames refused: item {damaged} does not hold the frames that it should")


def find_blocks(blob: bytes | memoryview, rows: int, frame_bytes: int) -> Array | None:
    """Where the LZ4 blocks of `rows` frames end, int32 [rows + 1] from 0 on; None if they do not fill `blob`."""
    return _kernels.find_blocks(blob, rows, frame_bytes)


def pack_frames(frames: Array, *, group: int) -> tuple[bytes, Array]:
    """Compresses frames, [rows, *frame_shape], as `frame_codec` describes; returns the blocks and their bounds.

    Returns: the bytes, and int32 [rows + 1]: the block of frame i, with its size, is bounds[i] .. bounds[i + 1].
    """
    return _kernels.pack_frames(np.ascontiguousarray(frames), group)
