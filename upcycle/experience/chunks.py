"""The chunk: a short, self-contained run of consecutive steps of one environment lane.

Actors send chunks, a replay shard stores each in one slot, and the experience log appends them. A chunk has at most
`history + steps + lookahead` rows, with each frame once:

    row:      0 .. history-1 | history .. history+steps-1 | .. rows-1
    meaning:  frame stack    | usable steps               | n-step lookahead

Row t describes observation s_t and what followed: `frame[t]` is the newest frame of s_t, `action[t]` was taken in s_t,
`reward[t]`, `terminated[t]` and `truncated[t]` are its outcome, and `first[t]` marks an s_t that opens an episode. The
row after an ended one holds the true final observation (it is the autoreset row of EnvPool, whose action is ignored):
it is no transition, and its `priority` is 0. A usable row is the start of a transition only if its `priority` is above
0.

Its wire form, which is also stored in the experience log:

    magic 4 | version 2 | reserved 2 | header bytes 4 | header | columns | frames | CRC-32 of all before, 4

The header names every column's dtype and shape and the codec of the frames: "none" is raw bytes, "lz4" the blocks of
`frame_codec`. It is compared with the headers that the specification allows and never interpreted. Version 1, in older
logs, has raw frames before the columns, no codec and no checksum.
"""

import json
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from upcycle.errors import CorruptDataError
from upcycle.experience.frame_codec import PackedFrames

Array = NDArray[Any]

COLUMNS: Final[dict[str, str]] = {
    "action": "int32",
    "reward": "float32",
    "terminated": "bool",
    "truncated": "bool",
    "first": "bool",
    "priority": "float32",
    "policy_version": "int64",
}
"""Columns beside `frame`, with their dtypes; each has shape [rows]."""

MAX_PRIORITY: Final = float("inf")
"""A `priority` that means "the highest one that the table has seen", for rows without a TD error yet."""


Codec = Literal["none", "lz4"]
"""Encoding of a chunk's frames."""

_MAGIC: Final = b"UPCH"
_VERSION: Final = 2
_PREFIX: Final = struct.Struct("<4sHHI")  # magic, version, reserved, header bytes
_CRC: Final = struct.Struct("<I")
_MAX_HEADER_BYTES: Final = 1 << 16

_Layout = list[tuple[str, np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """Shape of all chunks of a run; parties that exchange chunks must agree on it.

    Attributes:
      frame_shape: shape of one frame: (H, W) for images, (D,) for vectors.
      frame_dtype: "uint8" for images, "float32" for vectors.
      num_actions: size of the discrete action set; `action` lies in [0, num_actions).
      steps: usable steps of a full chunk.
      history: frames before the first usable step; the largest frame stack that can be sampled is history + 1.
      lookahead: rows after the last usable step; the largest n-step that can be sampled.
    """

    frame_shape: tuple[int, ...]
    frame_dtype: str
    num_actions: int
    steps: int = 64
    history: int = 3
    lookahead: int = 3

    @property
    def rows(self) -> int:
        """Rows of a full chunk."""
        return self.history + self.steps + self.lookahead

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return int(np.prod(self.frame_shape, dtype=np.int64)) * np.dtype(self.frame_dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        """The specification as JSON values; `from_json` restores it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"frame_shape": list(self.frame_shape)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ChunkSpec":
        """Inverse of `to_json`. Raises TypeError or KeyError when a field is missing or unknown."""
        return cls(**dict[str, Any](values, frame_shape=tuple(values["frame_shape"])))


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """One chunk; columns are NumPy arrays with `num_rows` rows.

    Attributes:
      frame: [rows, *frame_shape].
      columns: the arrays named in `COLUMNS`, each [rows].
      packed: the same frames in LZ4 blocks, if the chunk was received that way.
    Guarantee: `history < num_rows <= spec.rows`; a chunk with fewer than `spec.rows` rows is the tail of a closed
    lane and has at most `num_rows - history` usable rows.
    """

    frame: Array
    columns: dict[str, Array]
    packed: PackedFrames | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.frame.shape[0])

    def packed_frames(self) -> PackedFrames:
        """The frames in LZ4 blocks: those received, or compressed now."""
        return self.packed if self.packed is not None else PackedFrames.pack(self.frame)

    def num_transitions(self, spec: ChunkSpec) -> int:
        """Number of usable rows that start a transition (one agent step each)."""
        usable = self.columns["priority"][spec.history : spec.history + spec.steps]
        return int(np.count_nonzero(usable > 0))


def encode_chunk(chunk: Chunk, spec: ChunkSpec, *, codec: Codec = "none") -> bytes:
    """Wire form of a chunk, with its frames raw or compressed.

    Raises: ValueError if the chunk does not fit `spec`, which is a bug in the caller.
    """
    problem = _mismatch(chunk, spec)
    if problem:
        raise ValueError(f"chunk does not fit its specification: {problem}")
    header = _written_header(spec, chunk.num_rows, codec)
    columns = [_raw(chunk.columns[name]) for name in COLUMNS]
    frames = chunk.packed_frames().blob if codec == "lz4" else _raw(chunk.frame)
    parts = [_PREFIX.pack(_MAGIC, _VERSION, 0, len(header)), header, *columns, frames]
    crc = 0
    for part in parts:
        crc = zlib_ng.crc32(part, crc)
    return b"".join([*parts, _CRC.pack(crc)])


def decode_chunk(data: bytes | memoryview, spec: ChunkSpec) -> Chunk:
    """Inverse of `encode_chunk`, for this version and version 1.

    Columns and raw frames are read-only views into `data`; compressed frames are decoded with each block checked, and
    kept in `Chunk.packed`. In version 2 a change of any byte is detected.
    Raises: CorruptDataError if the magic, the version, the checksum, a dtype, a shape, a block or the length is not
      that of `spec`.
    """
    view = memoryview(data)
    version, offset, rows, codec = _read_header(view, spec)
    if version == _VERSION:
        if len(view) < offset + _CRC.size or _CRC.unpack(view[-_CRC.size :])[0] != zlib_ng.crc32(view[: -_CRC.size]):
            raise CorruptDataError("chunk refused: it fails its checksum (damaged or truncated message)")
        view = view[: -_CRC.size]
    arrays, packed = dict[str, Array](), None
    for name, dtype, shape in _layout(spec, rows, version):
        if name == "frame" and codec == "lz4":
            packed = PackedFrames.parse(
                view[offset:], rows=rows, frame_shape=spec.frame_shape, frame_dtype=spec.frame_dtype
            )
            arrays[name], offset = packed.unpack(), len(view)
            continue
        count = math.prod(shape)
        if offset + count * dtype.itemsize > len(view):
            raise CorruptDataError(f"chunk refused: column {name!r} runs past the data (truncated message)")
        arrays[name] = np.frombuffer(view, dtype, count, offset).reshape(shape)
        offset += count * dtype.itemsize
    if offset != len(view):
        raise CorruptDataError(f"chunk refused: {len(view) - offset} bytes left over after the last column")
    chunk = Chunk(frame=arrays.pop("frame"), columns=arrays, packed=packed)
    problem = _mismatch(chunk, spec)
    if problem:
        raise CorruptDataError(f"chunk refused: {problem}")
    return chunk


def _raw(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _layout(spec: ChunkSpec, rows: int, version: int) -> _Layout:
    """Columns of a chunk of `rows` rows, in wire order."""
    columns: _Layout = [(name, np.dtype(dtype), (rows,)) for name, dtype in COLUMNS.items()]
    frame = ("frame", np.dtype(spec.frame_dtype), (rows, *spec.frame_shape))
    return [frame, *columns] if version == 1 else [*columns, frame]


def _header(layout: _Layout, codec: Codec | None) -> bytes:
    entries: list[list[Any]] = [[name, dtype.str, list(shape)] for name, dtype, shape in layout]
    return json.dumps(entries if codec is None else [["codec", codec], *entries]).encode()


@lru_cache(maxsize=1024)
def _written_header(spec: ChunkSpec, rows: int, codec: Codec) -> bytes:
    return _header(_layout(spec, rows, _VERSION), codec)


@lru_cache(maxsize=16)
def _known_headers(spec: ChunkSpec) -> dict[tuple[int, bytes], tuple[int, Codec]]:
    """Each version and header that a chunk of `spec` can have, with its number of rows and codec."""
    known = dict[tuple[int, bytes], tuple[int, Codec]]()
    codecs: tuple[Codec, ...] = ("none", "lz4")
    for rows in range(spec.history + 1, spec.rows + 1):
        known[1, _header(_layout(spec, rows, 1), None)] = rows, "none"
        for codec in codecs:
            known[_VERSION, _header(_layout(spec, rows, _VERSION), codec)] = rows, codec
    return known


def _read_header(view: memoryview, spec: ChunkSpec) -> tuple[int, int, int, Codec]:
    """Returns the version, the offset of the columns, the number of rows, and the codec of the frames."""
    if len(view) < _PREFIX.size:
        raise CorruptDataError(f"chunk refused: {len(view)} bytes are shorter than its header")
    magic, version, _, header_bytes = _PREFIX.unpack_from(view)
    if magic != _MAGIC or version not in (1, _VERSION):
        raise CorruptDataError(
            f"chunk refused: magic {magic!r}, version {version}; this build reads {_MAGIC!r}, 1 and {_VERSION}"
        )
    if header_bytes > _MAX_HEADER_BYTES or _PREFIX.size + header_bytes > len(view):
        raise CorruptDataError(f"chunk refused: header of {header_bytes} bytes runs past the data")
    header = bytes(view[_PREFIX.size : _PREFIX.size + header_bytes])
    known = _known_headers(spec).get((version, header))
    if known is not None:
        return version, _PREFIX.size + header_bytes, *known
    wanted = _header(_layout(spec, spec.rows, version), None if version == 1 else "none").decode()
    raise CorruptDataError(f"chunk refused: header {header[:400]!r} instead of {wanted!r} (or fewer rows)")


def _mismatch(chunk: Chunk, spec: ChunkSpec) -> str | None:
    """How a chunk differs from `spec`, in words; None if it fits."""
    arrays = {"frame": chunk.frame, **chunk.columns}
    if set(arrays) != {"frame", *COLUMNS}:
        return f"columns {sorted(arrays)} instead of {sorted(['frame', *COLUMNS])}"
    frame = arrays["frame"]
    if frame.dtype != np.dtype(spec.frame_dtype) or frame.shape[1:] != spec.frame_shape or frame.ndim == 0:
        return f"frame is {frame.dtype} {frame.shape[1:]} instead of {spec.frame_dtype} {spec.frame_shape}"
    rows = frame.shape[0]
    if not spec.history < rows <= spec.rows:
        return f"{rows} rows, not above {spec.history} and at most {spec.rows}"
    for name, dtype in COLUMNS.items():
        column = arrays[name]
        if column.dtype != np.dtype(dtype) or column.shape != (rows,):
            return f"{name} is {column.dtype} {column.shape} instead of {dtype} ({rows},)"
    if arrays["action"].size and not 0 <= int(arrays["action"].min()) <= int(arrays["action"].max()) < spec.num_actions:
        return f"action outside [0, {spec.num_actions})"
    if bool(np.isnan(arrays["priority"]).any()) or float(arrays["priority"].min()) < 0:
        return "priority is negative or not a number"
    if not bool(np.isfinite(arrays["reward"]).all()):
        return "reward is not finite"
    if frame.dtype.kind == "f" and not bool(np.isfinite(frame).all()):
        return "frame is not finite"
    return None
