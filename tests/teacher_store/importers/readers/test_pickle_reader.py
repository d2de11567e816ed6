"""Pickles of others, read without unpickling: all protocols, and what hostile ones come to."""

import pickle
import struct
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teacher_store.importers.readers.pickle_numpy import plain_constructors
from teacher_store.importers.readers.pickle_reader import read_pickle
from upcycle.errors import CorruptDataError

VALUES: dict[str, Any] = {
    "lists and tuples": [1, (2,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], ()],
    "scalars": [None, True, False, 1 << 40, -(1 << 70), 2.5, "text", b"\x00\xff"],
    "sets": {1, 2, 3},
    "dicts": OrderedDict([("a", 1), ("b", [2])]),
    "numpy": {np.int64(3), np.int64(4)},
}
ARRAYS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.arange(3, dtype=">i4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 4), np.uint8),
    np.array([True, False]),
]


def read(data: bytes) -> Any:
    return read_pickle(data, plain_constructors(), where="file")[0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_an_agent_is_made_of_is_read_in_every_protocol(protocol: int):
    data = pickle.dumps(VALUES, protocol)
    found, size = read_pickle(data + b"more", plain_constructors(), where="file")
    assert (found, size) == (VALUES, len(data))
    for array in ARRAYS:
        again = read(pickle.dumps(array, protocol))
        assert again.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(again, array)


class Evil:
    def __reduce__(self) -> Any:
        return eval, ("1 + 1",)


def nested(levels: int) -> bytes:
    return b"\x80\x04" + b"]" * levels + b"a" * (levels - 1) + b"."


def laughing(levels: int) -> bytes:
    """A list of ten times the same list of ten times the same list ..."""
    parts = [b"\x80\x04]q\x00(" + b"K\x01" * 10 + b"e"]
    parts += [b"0]q" + bytes([n]) + b"(" + (b"h" + bytes([n - 1])) * 10 + b"e" for n in range(1, levels)]
    return b"".join(parts) + b"."


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pickle.dumps(Evil()), r"it would construct builtins\.eval"),
        (b"cos\nsystem\n(S'ls'\ntR.", r"it would construct os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"it would construct os\.system"),
        (b"(S'ls'\nios\nsystem\n.", "it uses the opcode INST"),
        (b"\x80\x04}" + b")R.", "it would call a dict"),
        (b"\x80\x04N)R.", "it would call a NoneType"),
        (b"\x80\x04Nq\x00r\xff\xff\xff\xffh\x07.", "KeyError"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "ValueError"),
        (b"\x80\x04B" + struct.pack("<I", 1 << 31) + b"x.", "ValueError"),
        (b"\x80\x04}K\x01s.", "damaged pickle|a mark|dict"),
        (b"\x80\x04]q\x00h\x00a.", "nested deeper than 64, or in itself"),
        (nested(100_000), "nested deeper than 64"),
        (b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns.", "a tuple as a key|more than"),
        (b"\x80\x04(" + b")\x85\x85" + b"\x91.", "a tuple as a key"),
        (b"\x80\x04]}a(K\x01e", "no end|not enough|STOP"),
        (b"\x80\x04" + RECONSTRUCT + b"(K\x02tcnumpy\ndtype\n(\x8c\x02f4K\x00K\x01tR\x89C\x04abcdtb.", r"shape \(2,\)"),
        (b"\x80\x04" + RECONSTRUCT + b"(K\x01tcnumpy\ndtype\n(\x8c\x01OK\x00K\x01tR\x89]tb.", "no plain number"),
        (b"\x80\x04" + RECONSTRUCT + b"(J\xff\xff\xff\xfftcnumpy\ndtype\n(\x8c\x02f4tR\x89C\x00tb.", "no length"),
        (b"\x80\x04" + RECONSTRUCT[:-3] + b".", "an array without data"),
        (b"\x80\x04Pid\n.", "refers to objects outside of it"),
        (b"", "damaged pickle|no end"),
        (b"\x00\x01\x02", "damaged pickle"),
    ],
    ids=range(22),
)
def test_hostile_and_damaged_pickles_are_refused(data: bytes, problem: str):
    with pytest.raises(CorruptDataError, match=rf"^file: .*({problem})"):
        read(data)


def test_one_list_that_is_named_a_billion_times_is_one_list():
    value = read(laughing(9))
    assert value[0] is value[9]


def test_an_array_that_is_named_a_million_times_is_refused():
    raw = b"\x80\x04B" + struct.pack("<I", 1 << 16) + bytes(1 << 16) + b"\x94" + b"\x8c\x02f4\x94"
    once = b"cnumpy._core.numeric\n_frombuffer\n(h\x00h\x01J\x00\x40\x00\x00\x85\x8c\x01CtR0"
    with pytest.raises(CorruptDataError, match="many times the memory of the file"):
        read(raw + once * 100 + b"N.")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(0, pickle.HIGHEST_PROTOCOL), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8)
)
def test_nothing_but_a_refusal_comes_of_changed_bytes(protocol: int, changes: list[tuple[int, int]]):
    data = bytearray(pickle.dumps([VALUES, ARRAYS], protocol))
    for place, value in changes:
        data[place % len(data)] = value
    with suppress(CorruptDataError):
        read(bytes(data))
