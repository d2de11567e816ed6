"""`upcycle.experience.kernels` in C: finds the library that the installation has built, or builds it, and calls it.

LZ4 is the lz4 package's: its extension module exports the C functions, whose addresses our loops are given. Where that
package has been built another way, or our library has not been built, `why_not` says so.
"""

import ctypes
import platform
import sys
import threading
from ctypes import c_int, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from upcycle.experience.kernel_building import build_kernels
from upcycle.experience.plain_kernels import Blobs

Array = NDArray[Any]

LIBRARY: Final = Path(__file__).with_name("_kernels.so")
_SOURCE: Final = LIBRARY.with_name("kernels.c")
_STREAMED_BYTES: Final = 4 << 20  # larger copies go past the caches, which they would only empty
_SIZE_BYTES: Final = 4
_BYTES_BEGIN: Final = bytes.__basicsize__ - 1  # in CPython, where an object's `id` is its address; tried when loading


class _Library:
    """The functions; raises OSError, AttributeError, ImportError or ValueError where one of them is missing."""

    def __init__(self) -> None:
        if sys.byteorder != "little" or platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
            raise OSError(f"not for {platform.machine()}")
        ours = ctypes.CDLL(str(LIBRARY))
        if c_uint32.in_dll(ours, "upcycle_source_crc").value != zlib_ng.crc32(_SOURCE.read_bytes()):
            raise OSError("it has been built from another version of its source")
        tried = b"where the bytes of an object begin"
        if np.frombuffer(tried, np.uint8).ctypes.data != id(tried) + _BYTES_BEGIN:
            raise OSError("this Python keeps bytes in another way")
        import lz4.block._block as lz4_block

        lz4 = ctypes.CDLL(cast(str, lz4_block.__file__))
        self.copy_pieces, self.join_pieces = ours.upcycle_copy_pieces, ours.upcycle_join_pieces
        self.unpack_runs, self.pack_frames = ours.upcycle_unpack_runs, ours.upcycle_pack_frames
        self.find_blocks = ours.upcycle_find_blocks
        for function in (self.copy_pieces, self.join_pieces, self.pack_frames):
            function.restype = None
        for function in (self.unpack_runs, self.find_blocks):
            function.restype = c_int64
        self.lz4_decode = ctypes.cast(lz4.LZ4_decompress_safe_usingDict, c_void_p)
        self.lz4_reset = ctypes.cast(lz4.LZ4_resetStream_fast, c_void_p)
        self.lz4_encode = ctypes.cast(lz4.LZ4_compress_fast_continue, c_void_p)
        self.lz4_new, self.lz4_free = lz4.LZ4_createStream, lz4.LZ4_freeStream
        self.lz4_new.restype = c_void_p


def _load() -> tuple[_Library | None, str]:
    if not LIBRARY.exists() and (problem := build_kernels(_SOURCE, LIBRARY)):
        return None, f"they have not been built ({problem}): install a C compiler and run `make setup` again"
    try:
        return _Library(), ""
    except (OSError, AttributeError, ImportError, ValueError) as error:
        return None, f"{LIBRARY.name} cannot be used ({error}): run `make setup` again"


_library, why_not = _load()


class _Stream:
    """What LZ4 needs to compress."""

    def __init__(self, library: _Library) -> None:
        self._library = library
        self.pointer = c_void_p(library.lz4_new())
        if not self.pointer:
            raise MemoryError("no memory for an LZ4 stream")

    def __del__(self) -> None:
        self._library.lz4_free(self.pointer)


_streams = threading.local()  # one for each thread


def copy_pieces(base: Array, begins: Array, out: Array) -> None:
    """Copies pieces of `base` to `out`, whose bounds the caller has checked."""
    assert _library is not None
    assert base.flags.c_contiguous
    assert out.flags.c_contiguous
    streaming = c_int(out.nbytes >= _STREAMED_BYTES)
    _library.copy_pieces(_at(base), _at(begins), c_int64(len(begins)), c_int64(out[:1].nbytes), _at(out), streaming)


def join_pieces(blobs: Blobs, which: Array, lows: Array, highs: Array) -> bytes:
    """Concatenates pieces of `blobs`."""
    assert _library is not None
    chosen: list[bytes] = [blobs[index] for index in which.tolist()]  # alive until the copy is done
    addresses = np.fromiter(map(id, chosen), np.int64, len(chosen)) + _BYTES_BEGIN + lows
    sizes = np.ascontiguousarray(highs - lows, np.int64)
    out = np.empty(int(sizes.sum()), np.uint8)
    _library.join_pieces(_at(addresses), _at(sizes), c_int64(len(sizes)), _at(out))
    return out.tobytes()


def unpack_runs(
    blob: bytes | memoryview, begins: Array, ends: Array, skips: Array, present: Array, group: int, out: Array
) -> int:
    """Decodes runs whose bounds the caller has checked. Returns the number of the first damaged run, or -1."""
    assert _library is not None
    num_runs, width = out.shape[:2]
    frame_bytes = out[:1].nbytes // width if num_runs else 0
    data, scratch = np.frombuffer(blob, np.uint8), np.empty(group * frame_bytes, np.uint8)
    sizes = (c_int64(num_runs), c_int64(width), c_int64(frame_bytes), c_int64(group))
    places = (_at(begins), _at(ends), _at(skips), _at(present))
    return int(_library.unpack_runs(_library.lz4_decode, _at(data), *places, *sizes, _at(scratch), _at(out)))


def find_blocks(blob: bytes | memoryview, rows: int, frame_bytes: int) -> Array | None:
    """The bounds of the LZ4 blocks of `rows` frames; None if they do not fill `blob`."""
    assert _library is not None
    data, bounds = np.frombuffer(blob, np.uint8), np.zeros(rows + 1, np.int32)
    sizes = (c_int64(len(data)), c_int64(rows), c_int64(frame_bytes))
    return bounds if _library.find_blocks(_at(data), *sizes, _at(bounds)) else None


def pack_frames(frames: Array, group: int) -> tuple[bytes, Array]:
    """Compresses C-contiguous frames; returns the blocks and their bounds."""
    assert _library is not None
    if not hasattr(_streams, "own"):
        _streams.own = _Stream(_library)
    rows, frame_bytes = len(frames), frames[:1].nbytes
    bound = frame_bytes + frame_bytes // 255 + 16  # LZ4_compressBound
    out, bounds = np.empty(rows * (_SIZE_BYTES + bound), np.uint8), np.zeros(rows + 1, np.int32)
    sizes = (c_int64(rows), c_int64(frame_bytes), c_int64(bound), c_int64(group))
    _library.pack_frames(
        _library.lz4_reset, _library.lz4_encode, _streams.own.pointer, _at(frames), *sizes, _at(out), _at(bounds)
    )
    return out[: bounds[-1]].tobytes(), bounds


def _at(array: Array) -> c_void_p:
    return c_void_p(array.ctypes.data)
