"""Reads what `flax.serialization.to_bytes` writes, without Flax.

The format is msgpack; lists and tuples are maps from "0", "1", ...; an array is an extension of type 1 that holds
msgpack of (shape, name of the dtype, bytes in C order), a NumPy scalar one of type 3 that holds the same, and an array
over 1 GiB a map with the key `__msgpack_chunked_array__`, its shape and flat chunks. Source: Flax 0.12.8,
`flax/serialization.py`.
"""

import math
from collections.abc import Callable
from typing import Final, TypeGuard, cast

import msgpack
import numpy as np

from teacher_store.importers.readers.flax_layers import flatten
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_array, is_dict, is_list, is_named

_MAX_LENGTH: Final = 4_096
"""Entries of one map or array: msgpack takes the memory that a length asks for before it has seen the entries."""
_MAX_TEXT: Final = 1 << 16
_MAX_AXES: Final = 8
_CHUNKED: Final = "__msgpack_chunked_array__"
_ARRAY: Final = 1
_SCALAR: Final = 3


def read_msgpack(data: bytes, where: str) -> dict[str, object]:
    """The nested dicts, numbers, texts and NumPy arrays.

    Raises: CorruptDataError if it is damaged, no map, or holds anything else.
    """
    try:
        value = _unpack(data, ext_hook=_extension)
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}") from error
    except (ValueError, TypeError, OverflowError, MemoryError, msgpack.exceptions.UnpackException) as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
        raise CorruptDataError(f"{where}: damaged msgpack ({problem})") from error
    if not is_named(value):
        raise CorruptDataError(f"{where}: msgpack of a {type(value).__name__}, not of a map by names")
    return value


def arrays_of(tree: object, where: str) -> dict[str, object]:
    """The arrays of a tree, by path, put together again from their chunks. Raises: CorruptDataError."""
    if not is_dict(tree):
        raise CorruptDataError(f"{where}: a {type(tree).__name__} where parameters belong")
    leaves = flatten(tree, where=where)
    for name in [name for name in leaves if name.rpartition("/")[2] == _CHUNKED]:
        path = name.rpartition("/")[0]
        parts = {key: leaves.pop(key) for key in list(leaves) if key.startswith(f"{path}/")}
        leaves[path] = _joined({key.removeprefix(f"{path}/"): part for key, part in parts.items()}, f"{where}: {path}")
    return leaves


def _joined(parts: dict[str, object], where: str) -> Array:
    """Args: parts: "shape/0", "shape/1", ... and "chunks/0", "chunks/1", ..., and the key that says so."""
    lengths = [parts[f"shape/{axis}"] for axis in range(_MAX_AXES) if f"shape/{axis}" in parts]
    found = [parts[f"chunks/{index}"] for index in range(len(parts)) if f"chunks/{index}" in parts]
    shape = [length for length in lengths if _is_length(length)]
    if len(lengths) + len(found) + 1 != len(parts) or not found or len(shape) != len(lengths):
        raise CorruptDataError(f"{where}: a chunked array whose chunks do not fit together")
    chunks = [chunk for chunk in found if is_array(chunk) and chunk.ndim == 1]
    if len(chunks) != len(found):
        raise CorruptDataError(f"{where}: a chunked array of something else than flat arrays")
    if sum(chunk.size for chunk in chunks) != math.prod(shape):
        raise CorruptDataError(f"{where}: a chunked array whose chunks do not make up its shape {tuple(shape)}")
    return np.concatenate(chunks).reshape(shape)


def _is_length(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**40


def _extension(code: int, data: bytes) -> object:
    if code not in (_ARRAY, _SCALAR):
        raise CorruptDataError(f"an extension of type {code}; only arrays are known")
    parts = _unpack(data)
    if not is_list(parts) or len(parts) != 3:
        raise CorruptDataError("an array that is no (shape, dtype, bytes)")
    shape, name, raw = parts
    if not is_list(shape) or not isinstance(name, str) or not isinstance(raw, bytes):
        raise CorruptDataError("an array that is no (shape, dtype, bytes)")
    lengths = [length for length in shape if _is_length(length)]
    if len(lengths) > _MAX_AXES or len(lengths) != len(shape):
        raise CorruptDataError(f"an array of the shape {str(shape)[:100]}")
    if name not in ("float16", "float32", "float64", "int32", "int64", "uint8", "uint32", "bool"):
        raise CorruptDataError(f"an array of dtype {name[:40]!r}")
    dtype = np.dtype(name).newbyteorder("<") if name != "bool" else np.dtype(name)
    if math.prod(lengths) * dtype.itemsize != len(raw):
        raise CorruptDataError(f"an array of shape {tuple(lengths)} and dtype {name} with {len(raw)} bytes")
    array = np.frombuffer(raw, dtype).reshape(lengths)
    return array.item() if code == _SCALAR and array.size == 1 else array


def _unpack(data: bytes, ext_hook: Callable[[int, bytes], object] = msgpack.ExtType) -> object:
    return cast(
        object,
        msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_array_len=_MAX_LENGTH,
            max_map_len=_MAX_LENGTH,
            max_str_len=_MAX_TEXT,
            max_bin_len=len(data),
            max_ext_len=len(data),
            ext_hook=ext_hook,
        ),
    )
