"""Files of `torch.save`, read without PyTorch and without unpickling: those in a zip (since 1.6) and the older ones.

Both hold a pickle, in which a tensor is a view (offset, size, stride) of a storage that is elsewhere in the file: an
entry `data/KEY` of the archive, or after the pickles, its length before it. Here a tensor stays a description until its
values are asked for, so that a file that names one storage a million times costs no more than its size. Source: PyTorch
2.13, `torch/serialization.py` and `torch/_utils.py`.
"""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from teacher_store.importers.readers.pickle_numpy import plain_constructors, refuse_call
from teacher_store.importers.readers.pickle_reader import Allowed, Global, read_pickle
from teacher_store.importers.readers.stored_zip import LOCAL_MAGIC, StoredZip
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_dict, is_list, is_tuple

_DTYPES: Final = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_MAX_PICKLE_BYTES: Final = 64 << 20
_MAX_AXES: Final = 8
_MAX_LENGTH: Final = 1 << 48
_PICKLE_NAME: Final = re.compile(r"[^/]+/data\.pkl")
_LEGACY_MAGIC: Final = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that the older files begin with, after two bytes that say which protocol it is in."""
_LEGACY_PROTOCOL: Final = 1001
_ATTRIBUTE_DICTS: Final = tuple(
    (module, "AttributeDict")
    for module in (
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
        "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
    )
)
"""Dicts of Lightning, in which it keeps hyperparameters; their items are set afterwards."""


@dataclass(frozen=True, slots=True)
class TensorStorage:
    """A run of numbers of the file.

    Attributes:
      key: its name in the file.
      dtype: of NumPy, or `bfloat16`.
      length: how many.
    """

    key: str
    dtype: str
    length: int

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage; `TorchFile.array` has its values.

    Attributes:
      storage: whose numbers they are.
      offset: of the first.
      shape, strides: in numbers, not bytes.
    """

    storage: TensorStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """What a file holds.

    Attributes:
      value: dicts, lists, tuples, scalars, texts, NumPy's numbers, and `Tensor`.
    """

    def __init__(self, value: object, bytes_of: Callable[[TensorStorage], bytes | memoryview], *, budget: int) -> None:
        self.value, self._bytes_of, self._budget = value, bytes_of, budget

    def array(self, tensor: object, where: str) -> Array:
        """Finite float32 values of a tensor of floating point numbers.

        Args:
          tensor: what `value` has in its place.
          where: names file and tensor in errors.
        Raises: CorruptDataError if it is no tensor, is of other numbers, reaches out of its storage, is not finite, or
          if all tensors that were asked for are larger than the file.
        """
        if not isinstance(tensor, Tensor):
            raise CorruptDataError(f"{where} is a {type(tensor).__name__}, no tensor")
        storage, count = tensor.storage, math.prod(tensor.shape)
        if storage.dtype != "bfloat16" and np.dtype(storage.dtype).kind != "f":
            raise CorruptDataError(f"{where} is a tensor of {np.dtype(storage.dtype)}, no weights")
        last = tensor.offset + sum(
            (length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        if not count or count > storage.length or last >= storage.length:
            view = f"shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset}"
            raise CorruptDataError(f"{where} has {view} in a storage of {storage.length:,} numbers")
        self._budget -= count * storage.item_bytes
        if self._budget < 0:
            raise CorruptDataError(f"{where}: the tensors up to this one are larger than the file")
        data = self._bytes_of(storage)
        if len(data) != storage.length * storage.item_bytes:
            raise CorruptDataError(f"{where}: a storage of {storage.length:,} numbers has {len(data):,} bytes")
        return _float32(_viewed(data, tensor), where)


def starts_torch_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 300 or more, looks like one of `torch.save`."""
    if head[2:].startswith(_LEGACY_MAGIC):
        return head[0] == 0x80
    name_length = int.from_bytes(head[26:28], "little")
    name = head[30 : 30 + name_length]
    return head.startswith(LOCAL_MAGIC) and name.endswith(b"/data.pkl")


def read_torch_file(data: bytes, where: str) -> TorchFile:
    """What `torch.save` wrote into `data`. Raises: CorruptDataError if it is damaged, hostile or something else."""
    if data.startswith(LOCAL_MAGIC):
        return _read_zip(StoredZip(io.BytesIO(data), where), where)
    if data[2:].startswith(_LEGACY_MAGIC):
        return _read_legacy(data, where)
    raise CorruptDataError(f"{where}: is no file of torch.save")


def _read_zip(archive: StoredZip, where: str) -> TorchFile:
    pickles = [name for name in archive.names() if _PICKLE_NAME.fullmatch(name)]
    if len(pickles) != 1:
        raise CorruptDataError(f"{where}: is no file of torch.save: it has {len(pickles)} pickles")
    root = pickles[0].partition("/")[0]
    order = f"{root}/byteorder"
    if order in archive.names() and archive.read(order, limit=16) != b"little":
        raise CorruptDataError(f"{where}: its numbers are not in the order of little-endian machines")
    pickled = archive.read(pickles[0], limit=_MAX_PICKLE_BYTES)
    storages = dict[str, TensorStorage]()
    value, size = _unpickled(pickled, storages, where)
    if size != len(pickled):
        raise CorruptDataError(f"{where}: {len(pickled) - size:,} bytes after its pickle")
    budget = sum(archive.size(name) for name in archive.names())
    return TorchFile(value, lambda storage: archive.read(f"{root}/data/{storage.key}"), budget=budget)


def _read_legacy(data: bytes, where: str) -> TorchFile:
    """Five pickles, of a magic number, the format's version, the machine, the value, and keys; then the storages."""
    storages, at = dict[str, TensorStorage](), 0
    values = list[object]()
    for _ in range(5):
        value, size = _unpickled(data[at : at + _MAX_PICKLE_BYTES], storages, where)
        values.append(value)
        at += size
    _, version, machine, value, keys = values
    if version != _LEGACY_PROTOCOL or not is_dict(machine):
        raise CorruptDataError(f"{where}: is no file of torch.save")
    if machine.get("little_endian") is not True:
        raise CorruptDataError(f"{where}: its numbers are not in the order of little-endian machines")
    if not is_list(keys) or sorted(map(str, keys)) != sorted(storages):
        raise CorruptDataError(f"{where}: its storages are not those of its tensors")
    found, view = dict[str, memoryview](), memoryview(data)
    for key in map(str, keys):
        length, at = int.from_bytes(view[at : at + 8], "little"), at + 8
        size = storages[key].length * storages[key].item_bytes
        if length != storages[key].length or at + size > len(data):
            raise CorruptDataError(
                f"{where}: a storage of {storages[key].length:,} numbers is cut short, or has others"
            )
        found[key] = view[at : at + size]
        at += size
    if at != len(data):
        raise CorruptDataError(f"{where}: {len(data) - at:,} bytes after its storages")
    return TorchFile(value, lambda storage: found[storage.key], budget=len(data))


def _unpickled(data: bytes, storages: dict[str, TensorStorage], where: str) -> tuple[object, int]:
    """The value and its size in bytes; the storages that it names are added to `storages`."""

    def resolve(identity: object) -> TensorStorage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            raise CorruptDataError(f"its storage {storage.key[:40]} has two lengths or types")
        return storage

    return read_pickle(data, _allowed(), where=where, persistent=resolve)


def _storage(identity: object) -> TensorStorage:
    parts = list(identity) if is_tuple(identity) else []
    if len(parts) not in (5, 6) or parts[0] != "storage" or parts[5:] not in ([], [None]):
        raise CorruptDataError("it refers to something outside of it that is no storage")
    _, kind, key, _, length = parts[:5]
    if not isinstance(kind, Global) or not isinstance(key, str) or not key.isalnum():
        raise CorruptDataError("it refers to a storage without a type or a name")
    return TensorStorage(key, _DTYPES[kind.name], _whole(length))


def _allowed() -> Allowed:
    constructors = plain_constructors() | dict.fromkeys([("torch", name) for name in _DTYPES], refuse_call)
    constructors["torch._utils", "_rebuild_tensor_v2"] = _tensor
    constructors["torch._utils", "_rebuild_parameter"] = _parameter
    constructors["torch", "Size"] = _size
    return constructors | dict.fromkeys(_ATTRIBUTE_DICTS, _empty_dict)


def _empty_dict(_: tuple[object, ...]) -> dict[object, object]:
    return {}


def _parameter(arguments: tuple[object, ...]) -> object:
    return arguments[0]


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    return _lengths(arguments[0])


def _tensor(arguments: tuple[object, ...]) -> Tensor:
    storage, offset, shape, strides, *rest = arguments
    if not isinstance(storage, TensorStorage) or len(rest) not in (2, 3) or rest[2:] not in ([], [None], [{}]):
        raise CorruptDataError("a tensor that is no plain one")
    lengths, steps = _lengths(shape), _lengths(strides)
    if len(lengths) != len(steps):
        raise CorruptDataError(f"a tensor of shape {lengths} and strides {steps}")
    return Tensor(storage, _whole(offset), lengths, steps)


def _lengths(value: object) -> tuple[int, ...]:
    if not is_tuple(value) or len(value) > _MAX_AXES:
        raise CorruptDataError("a tensor whose shape is none")
    return tuple(map(_whole, value))


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_LENGTH:
        raise CorruptDataError("a tensor or storage with a length that is none")
    return value


def _viewed(data: bytes | memoryview, tensor: Tensor) -> Array:
    dtype = np.dtype("<u2" if tensor.storage.dtype == "bfloat16" else tensor.storage.dtype)
    numbers = np.frombuffer(data, dtype)[tensor.offset :]
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    values = np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides, writeable=False).copy()
    if tensor.storage.dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _float32(values: Array, where: str) -> Array:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise CorruptDataError(f"{where} holds values that are not finite")
    return values
