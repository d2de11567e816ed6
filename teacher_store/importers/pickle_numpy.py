"""What pickles are made of that hold numbers: NumPy's arrays, dtypes and scalars, for `pickle_reader`."""

from typing import Any, cast

import numpy as np

from teacher_store.importers.pickle_reader import Construct, Global, Pending
from upcycle.errors import CorruptDataError


def plain_constructors() -> dict[tuple[str, str], Construct]:
    """NumPy's numbers under its names of all versions, and the containers that older protocols call by name."""
    constructors: dict[tuple[str, str], Construct] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _refuse_call,
        ("_codecs", "encode"): _encoded,
        ("collections", "OrderedDict"): lambda arguments: dict[Any, Any](*arguments),
    }
    for package in ("builtins", "__builtin__"):
        constructors[package, "set"] = lambda arguments: set[Any](*arguments)
        constructors[package, "bytearray"] = lambda arguments: _encoded(arguments) if arguments else b""
    for package in ("numpy.core", "numpy._core"):
        constructors[f"{package}.multiarray", "_reconstruct"] = _PendingArray
        constructors[f"{package}.multiarray", "scalar"] = _scalar
        constructors[f"{package}.numeric", "_frombuffer"] = _frombuffer
    return constructors


def _refuse_call(_: tuple[Any, ...]) -> Any:
    raise CorruptDataError("it would call a class that it may only name")


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    """Bytes, as protocols below 3 spell them."""
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1"):
        raise CorruptDataError(f"bytes in the encoding {encoding!r}")
    return _text(text).encode("latin-1")


class _Dtype(Pending):
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._name, self._order = _text(arguments[0]), "="

    def set_state(self, state: Any) -> None:
        if len(state) < 3 or state[2] is not None or (len(state) > 3 and state[3] is not None):
            raise CorruptDataError("an array of records")
        self._order = _text(state[1])

    def finish(self) -> "np.dtype[Any]":
        dtype = np.dtype(self._name)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise CorruptDataError(f"an array of dtype {dtype}")
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


def _array(raw: Any, dtype: Any, shape: Any, *, order: str = "C") -> Any:
    kind = dtype.finish() if isinstance(dtype, _Dtype) else np.dtype(_text(dtype))
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes | bytearray) or kind.kind not in "biuf" or order not in ("C", "F"):
        raise CorruptDataError("an array whose data are no plain numbers")
    size = 1
    for length in shape:
        size *= _length(length)
    if size * kind.itemsize != len(data):
        raise CorruptDataError(f"an array of shape {tuple(shape)} and dtype {kind} with {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order=cast(Any, order)).astype(kind.newbyteorder("="))


def _length(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise CorruptDataError(f"an array with an axis of {value!r}")
    return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise CorruptDataError(f"a {type(value).__name__} where a text belongs")
    return value
