"""Payloads: what goes in comes out, and nothing else gets in."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats
from replay_service.wire import codec
from tests.helpers.chunk_factory import SPEC
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View

LAYOUT: codec.Layout = {"slot": ("int64", ()), "mark": ("uint8", ()), "frames": ("uint8", (3, 2)), "p": ("float32", ())}
PREFIX = struct.Struct("<4sHHI")


def make_columns(rows: int) -> dict[str, Array]:
    return {
        "mark": np.arange(rows, dtype=np.uint8),
        "frames": np.arange(rows * 6, dtype=np.uint8).reshape(rows, 3, 2),
        "slot": np.arange(rows, dtype=np.int64) - 5,
        "p": np.linspace(0, 1, rows, dtype=np.float32),
    }


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_round_trip(rows: int) -> None:
    columns = make_columns(rows)
    decoded = codec.decode_columns(codec.encode_columns(columns), LAYOUT, max_rows=7)
    assert decoded.keys() == columns.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(decoded[name], column)
        assert decoded[name].dtype == column.dtype
        assert decoded[name].flags.aligned


def test_columns_need_not_be_contiguous() -> None:
    columns = make_columns(8)
    every_other = {name: column[::2] for name, column in columns.items()}
    decoded = codec.decode_columns(codec.encode_columns(every_other), LAYOUT, max_rows=4)
    np.testing.assert_array_equal(decoded["frames"], columns["frames"][::2])


def test_every_truncation_is_refused() -> None:
    data = codec.encode_columns(make_columns(3))
    for length in range(len(data)):
        with pytest.raises(CorruptDataError):
            codec.decode_columns(data[:length], LAYOUT, max_rows=3)
    with pytest.raises(CorruptDataError, match="left over"):
        codec.decode_columns(data + b"\0", LAYOUT, max_rows=3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"slot": np.zeros(3, np.int32)}, "slot"),
        ({"frames": np.zeros((3, 2, 3), np.uint8)}, "frames"),
        ({"frames": np.zeros((3, 3, 2), np.int8)}, "frames"),
        ({"p": np.zeros(2, np.float32)}, "p"),
        ({"more": np.zeros(3)}, "columns"),
    ],
)
def test_another_layout_is_refused(change: dict[str, Array], named: str) -> None:
    with pytest.raises(CorruptDataError, match=named):
        codec.decode_columns(codec.encode_columns(make_columns(3) | change), LAYOUT, max_rows=3)


def test_more_rows_than_asked_for_are_refused() -> None:
    with pytest.raises(CorruptDataError, match="at most 2"):
        codec.decode_columns(codec.encode_columns(make_columns(3)), LAYOUT, max_rows=2)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{}",
        "7",
        '[["slot", "<i8", []]]',
        '[["slot", "<i8", [Infinity]]]',
        '[["slot"]]',
        "[[1, 2, 3]]",
        "[" * 5000,
        "not json",
    ],
)
def test_nonsense_in_the_header_is_refused(header: str) -> None:
    text = header.encode()
    with pytest.raises(CorruptDataError):
        codec.decode_columns(PREFIX.pack(b"UPCW", 1, 0, len(text)) + text + bytes(100), LAYOUT, max_rows=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for candidate in (data, PREFIX.pack(b"UPCW", 1, 0, len(data)) + data):
        with pytest.raises(CorruptDataError):
            codec.decode_columns(candidate, LAYOUT, max_rows=3)


def test_another_version_is_refused() -> None:
    data = codec.encode_columns(make_columns(3))
    with pytest.raises(CorruptDataError, match="version 2"):
        codec.decode_columns(data[:4] + b"\x02" + data[5:], LAYOUT, max_rows=3)


def test_counters_and_views_survive_their_messages() -> None:
    flow = Flow(8.0, 2, 3, 4, 5, 6, 7)
    stats = TableStats(
        flow,
        capacity_steps=8,
        num_chunks=9,
        num_drawable=10,
        mass=1.5,
        max_priority=2.5,
        num_seeded=11,
        num_stale_updates=12,
        num_duplicate_chunks=13,
        num_refused_chunks=14,
        stratified=False,
        revision=15,
        incarnation=16,
    )
    assert codec.stats_from_message(codec.stats_to_message(stats)) == stats
    unlimited = TableStats(Flow(None, 0, 0))
    assert codec.stats_from_message(codec.stats_to_message(unlimited)) == unlimited
    view = View(n_step=2, stack=1, gamma=0.97, clip_rewards=False, stack_fill="zeros")
    assert codec.view_from_message(codec.view_to_message(view), SPEC) == view
    bad = codec.view_to_message(view)
    bad.stack_fill = "mirror"
    with pytest.raises(ValueError, match="mirror"):
        codec.view_from_message(bad, SPEC)
