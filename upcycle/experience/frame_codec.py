"""Frames in LZ4 blocks: compressed once by the actor, stored and sent as they are, decoded into a learner's batch.

The frames of a chunk are a run of data blocks of the LZ4 frame format, one block per frame:

    size, 4 bytes, little-endian (highest bit: what follows is the frame itself) | LZ4 block, or the frame

Every fourth frame begins a *group* and is self-contained; the others may refer to earlier frames of their group. Frames
of a game differ little from their predecessors, so groups of four halve the bytes and decode faster than single
frames. Frames a .. b - 1 need the contiguous blocks from the start of a's group to b: a *run*, which
`upcycle.experience.kernels` decodes straight into a batch.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError
from upcycle.experience import kernels

Array = NDArray[Any]

GROUP: Final = 4
"""Frames of a group; the first is self-contained."""

MAX_FRAME_BYTES: Final = 4 << 20
"""The largest block of the LZ4 frame format."""

_SIZE: Final = struct.Struct("<I")
_STORED: Final = 1 << 31


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
        """Compresses frames, [rows, *frame_shape].

        Raises: ValueError if a frame is larger than `MAX_FRAME_BYTES`.
        """
        shape = frames.shape[1:]
        frame_bytes = _frame_bytes(shape, frames.dtype.str)
        if frame_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"frames of {frame_bytes} bytes: LZ4 blocks hold {MAX_FRAME_BYTES} at most")
        blob, bounds = kernels.pack_frames(frames, group=GROUP)
        return cls(blob, bounds, shape, frames.dtype.str)

    @classmethod
    def parse(
        cls, blob: bytes | memoryview, *, rows: int, frame_shape: tuple[int, ...], frame_dtype: str
    ) -> "PackedFrames":
        """Finds the blocks of `rows` frames, which must fill `blob`, without decoding them.

        Raises: CorruptDataError naming the frame whose block is empty, larger than a frame, or truncated.
        """
        frame_bytes = _frame_bytes(frame_shape, frame_dtype)
        bounds = kernels.find_blocks(blob, rows, frame_bytes)
        if bounds is None:
            raise _damage(memoryview(blob), rows, frame_bytes)
        return cls(blob, bounds, frame_shape, frame_dtype)

    @property
    def num_rows(self) -> int:
        """Number of frames."""
        return len(self.bounds) - 1

    def unpack(self) -> Array:
        """All frames, [rows, *frame_shape], with each block checked.

        Raises: CorruptDataError if a block is damaged or is not exactly one frame.
        """
        out = np.empty((self.num_rows, *self.frame_shape), self.frame_dtype)
        places = (self.bounds[:1], self.bounds[-1:], np.zeros(1), np.array([self.num_rows]))
        kernels.unpack_runs(self.blob, *places, group=GROUP, out=out[None])
        return out


def _frame_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _damage(blob: memoryview, rows: int, frame_bytes: int) -> CorruptDataError:
    """What is wrong with blocks that do not fill `blob`."""
    at = 0
    for row in range(rows):
        if at + _SIZE.size > len(blob):
            return CorruptDataError(f"packed frames refused: frame {row} of {rows} is missing (truncated)")
        size = _SIZE.unpack_from(blob, at)[0]
        length = size & ~_STORED
        if not 0 < length <= frame_bytes or (length == frame_bytes) != bool(size & _STORED):
            return CorruptDataError(
                f"packed frames refused: the block of frame {row} has {length} bytes, a frame has {frame_bytes}"
            )
        at += _SIZE.size + length
        if at > len(blob):
            return CorruptDataError(f"packed frames refused: frame {row} runs past the data (truncated)")
    return CorruptDataError(f"packed frames refused: {len(blob) - at} bytes left over after the last frame")
