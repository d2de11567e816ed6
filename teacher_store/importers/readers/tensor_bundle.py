"""Reads tensors out of TensorFlow checkpoints (version 2, "tensor bundles"), without TensorFlow.

`X.index` is a LevelDB table of names, in order, each with a BundleEntryProto; `X.data-00000-of-00001` has the values,
little-endian, one tensor after the other. A table is blocks of entries (shared bytes of the name before, other bytes,
length of the value; then the rest of the name and the value), a block of the blocks' handles, and a footer of 48 bytes
that says where that one is. After each block come its compression and a checksum.

Checksums (masked CRC-32C, of blocks and of tensors) are not verified: no library that we depend on computes them. Every
offset and length is checked against what is there.

Sources: leveldb/doc/table_format.md; tensorflow/core/protobuf/tensor_bundle.proto and
tensorflow/core/framework/tensor_shape.proto.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np

from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_FOOTER_BYTES: Final = 48
_TRAILER_BYTES: Final = 5
MAGIC: Final = bytes.fromhex("57fb808b247547db")
"""The last bytes of an index."""
_MAX_TENSORS: Final = 100_000
_MAX_AXES: Final = 8
_DTYPES: Final = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 19: np.dtype("<f2")}
"""Of weights, by TensorFlow's DataType."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor is.

    Attributes:
      dtype: TensorFlow's number of it.
      shape: as written.
      shard: which file of values.
      offset, size: bytes in it.
      is_sliced: it is written in parts.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    is_sliced: bool


def read_index(data: bytes, where: str) -> dict[str, Entry]:
    """All tensors of a checkpoint, by name.

    Raises: CorruptDataError if it is damaged, compressed, big-endian, or has several files of values.
    """
    try:
        pairs = dict(_pairs(data))
        _check_header(pairs.pop(b"", b""))
        return {name.decode(): _entry(value) for name, value in pairs.items()}
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{where}: a tensor whose name is no text") from error
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}") from error


def read_tensor(file: BinaryIO, entry: Entry, where: str) -> Array:
    """The values of a tensor of real numbers.

    Args:
      file: of values.
      entry: says where in it.
      where: names file and tensor in errors.
    Raises: CorruptDataError if it does not hold them.
    """
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None or entry.is_sliced or entry.shard:
        raise CorruptDataError(f"{where}: no plain tensor of real numbers (type {entry.dtype}, shard {entry.shard})")
    size = file.seek(0, os.SEEK_END)
    if math.prod(entry.shape) * dtype.itemsize != entry.size or entry.offset + entry.size > size:
        problem = f"shape {entry.shape} in {entry.size} bytes at {entry.offset} of {size}"
        raise CorruptDataError(f"{where}: {problem}")
    file.seek(entry.offset)
    raw = file.read(entry.size)
    if len(raw) != entry.size:
        raise CorruptDataError(f"{where}: the file of values ends too early")
    return np.frombuffer(raw, dtype).reshape(entry.shape)


def _pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of a table, in order."""
    if len(data) < _FOOTER_BYTES or not data.endswith(MAGIC):
        raise CorruptDataError("no index of a TensorFlow checkpoint")
    footer = _Reader(data[-_FOOTER_BYTES : -len(MAGIC)])
    _handle(footer)  # of the block of filters, which checkpoints leave empty
    count = 0
    for _, value in _block(data, _handle(footer)):
        for pair in _block(data, _handle(_Reader(value))):
            count += 1
            if count > _MAX_TENSORS:
                raise CorruptDataError(f"more than {_MAX_TENSORS:,} tensors")
            yield pair


def _handle(reader: "_Reader") -> tuple[int, int]:
    return reader.varint(), reader.varint()


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    if offset + size + _TRAILER_BYTES > len(data) - _FOOTER_BYTES:
        raise CorruptDataError(f"a block of {size} bytes at {offset} of {len(data)}")
    if data[offset + size] != 0:
        raise CorruptDataError(f"a block with compression {data[offset + size]}; only blocks without are supported")
    restarts = int.from_bytes(data[offset + size - 4 : offset + size], "little") if size >= 4 else -1
    end = size - 4 - 4 * restarts
    if restarts < 0 or end < 0:
        raise CorruptDataError(f"a block of {size} bytes with {restarts} restarts")
    reader, key = _Reader(data[offset : offset + end]), b""
    while reader.left:
        shared, other, length = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key):
            raise CorruptDataError("a name that shares more than the one before has")
        key = key[:shared] + reader.take(other)
        yield key, reader.take(length)


def _check_header(value: bytes) -> None:
    header = dict(_fields(value))
    if header.get(1) != 1:
        raise CorruptDataError(f"values in {header.get(1, 0)} files; only those in one are supported")
    if header.get(2, 0) != 0:
        raise CorruptDataError("values are big-endian")


def _entry(value: bytes) -> Entry:
    numbers, shape, is_sliced = dict[int, int](), tuple[int, ...](), False
    for field, content in _fields(value):
        if isinstance(content, int):
            numbers[field] = content
        elif field == 2:
            shape = _shape(content)
        elif field == 7:
            is_sliced = True
    return Entry(numbers.get(1, 0), shape, numbers.get(3, 0), numbers.get(4, 0), numbers.get(5, 0), is_sliced)


def _shape(value: bytes) -> tuple[int, ...]:
    axes = list[int]()
    for field, content in _fields(value):
        if field == 2 and isinstance(content, bytes):
            length = dict(_fields(content)).get(1, 0)
            if not isinstance(length, int) or length >= 1 << 40:
                raise CorruptDataError("a tensor with an axis without a length")
            axes.append(length)
    if len(axes) > _MAX_AXES:
        raise CorruptDataError(f"a tensor of {len(axes)} axes")
    return tuple(axes)


def _fields(value: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and contents of a message's fields, as protobuf's wire format has them."""
    reader = _Reader(value)
    while reader.left:
        tag = reader.varint()
        kind = tag & 7
        if kind == _VARINT:
            yield tag >> 3, reader.varint()
        elif kind == _BYTES:
            yield tag >> 3, reader.take(reader.varint())
        elif kind in (_FIXED32, _FIXED64):
            yield tag >> 3, int.from_bytes(reader.take(4 if kind == _FIXED32 else 8), "little")
        else:
            raise CorruptDataError(f"a field of wire type {kind}")


class _Reader:
    """Bytes, from the first to the last."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise CorruptDataError(f"{count} bytes are asked for, {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """An unsigned integer of up to 64 bits, seven to a byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise CorruptDataError("an integer of more than 64 bits")
