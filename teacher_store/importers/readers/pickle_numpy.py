"""What pickles are made of that hold numbers: NumPy's arrays, dtypes and scalars, for `pickle_reader`."""

import math
import re
from typing import Any, Final, cast

import numpy as np

from teacher_store.importers.readers.pickle_reader import Construct, Global, Pending, flat_key
from upcycle.errors import CorruptDataError

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


def refuse_call(_: tuple[Any, ...]) -> Any:
    """Stands in for a class that a stream may name, and never call."""
    raise CorruptDataError("it would call a class that it may only name")


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """With the items as an argument, as Python 2 spells it; later ones set them afterwards."""
    pairs = _list(arguments)
    if any(not isinstance(pair, tuple | list) or len(cast(list[Any], pair)) != 2 for pair in pairs):
        raise CorruptDataError("a dictionary of something else than pairs")
    return {flat_key(key): value for key, value in pairs}


def _set(arguments: tuple[Any, ...]) -> set[Any]:
    return {flat_key(value) for value in _list(arguments)}


def _list(arguments: tuple[Any, ...]) -> list[Any]:
    values: Any = arguments[0] if arguments else []
    if not isinstance(values, list) or len(arguments) > 1:
        raise CorruptDataError("a container that is not made of a list")
    return cast(list[Any], values)


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    """Bytes, as protocols below 3 spell them."""
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1"):
        raise CorruptDataError("bytes in another encoding than latin1")
    return _text(text).encode("latin-1")


class _Dtype(Pending):
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._name, self._order = _text(arguments[0]), "="

    def set_state(self, state: Any) -> None:
        if len(state) < 3 or state[2] is not None or (len(state) > 3 and state[3] is not None):
            raise CorruptDataError("an array of records")
        self._order = _text(state[1])

    def finish(self) -> "np.dtype[Any]":
        dtype = _number_dtype(self._name)
        return dtype.newbyteorder(cast(Any, self._order)) if self._order in ("<", ">") else dtype


class _PendingArray(Pending):
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        if arguments and arguments[0] != Global("numpy", "ndarray"):
            raise CorruptDataError("an array that is no numpy.ndarray")
        self._value: np.ndarray[Any, Any] | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self._value = _array(raw, dtype, shape, order="F" if is_fortran else "C")

    def finish(self) -> Any:
        if self._value is None:
            raise CorruptDataError("an array without data")
        return self._value


def _frombuffer(arguments: tuple[Any, ...]) -> Any:
    raw, dtype, shape, order = arguments
    return _array(raw, dtype, shape, order=_text(order))


def _scalar(arguments: tuple[Any, ...]) -> Any:
    dtype, raw = arguments
    return _array(raw, dtype, ()).item()


def _number_dtype(name: str) -> "np.dtype[Any]":
    """By a name such as `f4` or `<i8`; NumPy's own parser knows a whole language, and evaluates parts of it."""
    if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", name):
        raise CorruptDataError(f"an array of dtype {name[:40]!r}, which is no plain number")
    return np.dtype(name)


def _array(raw: Any, dtype: Any, shape: Any, *, order: str = "C") -> Any:
    kind = dtype.finish() if isinstance(dtype, _Dtype) else _number_dtype(_text(dtype))
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise CorruptDataError("an array whose data are no plain numbers")
    if not isinstance(shape, tuple) or len(cast(tuple[Any, ...], shape)) > _MAX_AXES:
        raise CorruptDataError("an array whose shape is none")
    lengths = [_length(length) for length in cast(tuple[Any, ...], shape)]
    if math.prod(lengths) * kind.itemsize != len(data):
        raise CorruptDataError(f"an array of shape {tuple(lengths)} and dtype {kind} with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(lengths, order=cast(Any, order)).astype(kind.newbyteorder("="))


def _length(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise CorruptDataError("an array with an axis that is no length")
    return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise CorruptDataError(f"a {type(value).__name__} where a text belongs")
    return value
