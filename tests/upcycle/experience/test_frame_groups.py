"""Frames in zstd groups: any frames come back, damage is refused, and no forged group takes more memory."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError
from upcycle.experience.frame_groups import GROUP, num_groups, pack_groups, unpack_group_runs

SHAPE = (6, 5)


def make_frames(rows: int, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(rows).integers(0, 5, (rows, *SHAPE)).astype(dtype)


def unpack(blob: bytes, low: int, high: int, skip: int, present: int, out: NDArray[Any]) -> None:
    places = [np.array([value], np.int64) for value in (low, high, skip, present)]
    unpack_group_runs(blob, *places, out=out)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 70),
    width=st.integers(1, 40),
    first=st.integers(0, 69),
    dtype=st.sampled_from(["uint8", "float32"]),
)
def test_any_window_comes_back_and_its_last_frame_is_repeated(rows: int, width: int, first: int, dtype: str) -> None:
    frames, first = make_frames(rows, dtype), first % rows
    blob, bounds = pack_groups(frames)
    assert len(bounds) == num_groups(rows) + 1
    last = min(first + width, rows)
    out = np.empty((1, width, *SHAPE), dtype)
    low, high = bounds[first // GROUP], bounds[(last - 1) // GROUP + 1]
    unpack(blob, low, high, first % GROUP, last - first, out)
    np.testing.assert_array_equal(out[0], frames[np.minimum(np.arange(first, first + width), rows - 1)])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_leaves_whole_frames(position: int, flip: int) -> None:
    blob, bounds = pack_groups(make_frames(20))
    data = bytearray(blob)
    data[position % len(data)] ^= flip
    out = np.full((3, 7, *SHAPE), 77, np.uint8)
    with suppress(CorruptDataError):
        unpack(bytes(data), 0, int(bounds[2]), 12, 7, out[1:2])
    assert bool((out[[0, 2]] == 77).all())


def test_runs_that_are_not_whole_are_refused() -> None:
    blob, bounds = pack_groups(make_frames(20))
    out, end = np.empty((1, 7, *SHAPE), np.uint8), int(bounds[2])
    for low, high, skip, present, reason in (
        (0, end - 1, 12, 7, "truncated"),
        (0, 3, 0, 7, "truncated"),
        (0, int(bounds[1]), 12, 7, "truncated"),
        (0, end, 0, 7, "left over"),
        (int(bounds[1]), end, 0, 7, "too few frames"),  # the last group holds four
        (0, end, GROUP, 7, "no window"),
        (0, end, 0, 8, "no window"),
        (0, end, 0, 0, "no window"),
    ):
        with pytest.raises(CorruptDataError, match=reason):
            unpack(blob, low, high, skip, present, out)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    blob = len(bomb).to_bytes(4, "little") + bomb
    with pytest.raises(CorruptDataError, match="268435456 bytes"):
        unpack(blob, 0, len(blob), 0, 7, np.empty((1, 7, *SHAPE), np.uint8))
