"""What pickles are made of that hold numbers: NumPy's arrays, dtypes and scalars, for `pickle_reader`."""

import math
import re
from typing import Any, Final

import numpy as np

from teacher_store.importers.readers.pickle_reader import Construct, Global, Pending, flat_key
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_list, is_sequence, is_tuple

_MAX_AXES: Final = 8


def plain_constructors() -> dict[tuple[str, str], Construct]:
    """NumPy's numbers under its names of all versions, and the containers that older protocols call by name."""
    constructors: dict[tuple[str, str], Construct] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): refuse_call,
        ("_codecs", "encode"): _encoded,
        ("collections", "OrderedDict"): _ordered_dict,
    }
    for package in ("builtins", "__builtin__"):
        constructors[package, "set"] = _set
        for name in ("bytes", "bytearray"):  # empty ones have no argument
            constructors[package, name] = lambda arguments: _encoded(arguments) if arguments else b""
    for package in ("numpy.core", "numpy._core"):
        constructors[f"{package}.multiarray", "_reconstruct"] = _PendingArray
        constructors[f"{package}.multiarray", "scalar"] = _scalar
        constructors[f"{package}.numeric", "_frombuffer"] = _frombuffer
    return constructors


def refuse_call(_: tuple[object, ...]) -> object:
    """Stands in for a class that a stream may name, and never call."""
    raise CorruptDataError("it would call a class that it may only name")


def _ordered_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    """With the items as an argument, as Python 2 spells it; later ones set them afterwards."""
    pairs = [pair for pair in _list(arguments) if is_sequence(pair) and len(pair) == 2]
    if len(pairs) != len(_list(arguments)):
        raise CorruptDataError("a dictionary of something else than pairs")
    return {flat_key(key): value for key, value in pairs}


def _set(arguments: tuple[object, ...]) -> set[object]:
    return {flat_key(value) for value in _list(arguments)}


def _list(arguments: tuple[object, ...]) -> list[object]:
    values = arguments[0] if arguments else list[object]()
    if not is_list(values) or len(arguments) > 1:
        raise CorruptDataError("a container that is not made of a list")
    return values


def _encoded(arguments: tuple[object, ...]) -> bytes:
    """Bytes, as protocols below 3 spell them."""
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1"):
        raise CorruptDataError("bytes in another encoding than latin1")
    return _text(text).encode("latin-1")


class _Dtype(Pending):
    def __init__(self, arguments: tuple[object, ...]) -> None:
        self._name, self._order = _text(arguments[0]), "="

    def set_state(self, state: object) -> None:
        if not is_sequence(state) or len(state) < 3 or any(part is not None for part in state[2:4]):
            raise CorruptDataError("an array of records")
        self._order = _text(state[1])

    def finish(self) -> "np.dtype[Any]":
        dtype = _number_dtype(self._name)
        return dtype.newbyteorder(self._order) if self._order == "<" or self._order == ">" else dtype


class _PendingArray(Pending):
    def __init__(self, arguments: tuple[object, ...]) -> None:
        if arguments and arguments[0] != Global("numpy", "ndarray"):
            raise CorruptDataError("an array that is no numpy.ndarray")
        self._value: Array | None = None

    def set_state(self, state: object) -> None:
        if not is_sequence(state) or len(state) != 5:
            raise TypeError("an array whose state is none")
        _, shape, dtype, is_fortran, raw = state
        self._value = _array(raw, dtype, shape, order="F" if is_fortran else "C")

    def finish(self) -> Array:
        if self._value is None:
            raise CorruptDataError("an array without data")
        return self._value


def _frombuffer(arguments: tuple[object, ...]) -> Array:
    raw, dtype, shape, order = arguments
    return _array(raw, dtype, shape, order=_text(order))


def _scalar(arguments: tuple[object, ...]) -> object:
    dtype, raw = arguments
    return _array(raw, dtype, ()).item()


def _number_dtype(name: str) -> "np.dtype[Any]":
    """By a name such as `f4` or `<i8`; NumPy's own parser knows a whole language, and evaluates parts of it."""
    if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", name):
        raise CorruptDataError(f"an array of dtype {name[:40]!r}, which is no plain number")
    return np.dtype(name)


def _array(raw: object, dtype: object, shape: object, *, order: str = "C") -> Array:
    kind = dtype.finish() if isinstance(dtype, _Dtype) else _number_dtype(_text(dtype))
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise CorruptDataError("an array whose data are no plain numbers")
    if not is_tuple(shape) or len(shape) > _MAX_AXES:
        raise CorruptDataError("an array whose shape is none")
    lengths = [_length(length) for length in shape]
    if math.prod(lengths) * kind.itemsize != len(data):
        raise CorruptDataError(f"an array of shape {tuple(lengths)} and dtype {kind} with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(lengths, order="F" if order == "F" else "C").astype(kind.newbyteorder("="))


def _length(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise CorruptDataError("an array with an axis that is no length")
    return value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise CorruptDataError(f"a {type(value).__name__} where a text belongs")
    return value
