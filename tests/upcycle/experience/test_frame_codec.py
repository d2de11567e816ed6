"""Frames in LZ4 blocks: any frames come back, nothing else gets in, and no forged block takes more memory."""

import struct
import tracemalloc
from contextlib import suppress
from typing import Any, cast

import lz4.block
import lz4.frame
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError
from upcycle.experience.frame_codec import GROUP, MAX_FRAME_BYTES, PackedFrames

SHAPE = (12, 11)


def make_frames(rows: int, *, seed: int = 0, noise: int = 5) -> NDArray[Any]:
    """A still background on which `noise` pixels a frame differ."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 4, (1, *SHAPE)).astype(np.uint8), rows, axis=0)
    flat = frames.reshape(rows, -1)
    for row in range(rows):
        flat[row, rng.integers(0, flat.shape[1], noise)] = rng.integers(0, 256, noise)
    return frames


def parse(blob: bytes, rows: int) -> PackedFrames:
    return PackedFrames.parse(blob, rows=rows, frame_shape=SHAPE, frame_dtype="uint8")


def block(content: bytes) -> bytes:
    compressed = cast(bytes, lz4.block.compress(content, store_size=False))
    return struct.pack("<I", len(compressed)) + compressed


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 11),
    shape=st.sampled_from([(4,), (12, 11), (84, 84), (260, 260)]),
    dtype=st.sampled_from(["uint8", "float32"]),
    values=st.integers(1, 256),
    seed=st.integers(0, 99),
)
def test_any_frames_come_back(rows: int, shape: tuple[int, ...], dtype: str, values: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, values, (rows, *shape)).astype(dtype)
    packed = PackedFrames.pack(frames)
    assert len(packed.blob) <= frames.nbytes + 4 * rows
    again = PackedFrames.parse(packed.blob, rows=rows, frame_shape=shape, frame_dtype=dtype)
    np.testing.assert_array_equal(again.bounds, packed.bounds)
    np.testing.assert_array_equal(again.unpack(), frames)


def test_a_chunk_is_one_standard_lz4_frame() -> None:
    frames = make_frames(10)
    header = cast(bytes, lz4.frame.LZ4FrameCompressor(block_linked=True).begin())
    decoded = cast(bytes, lz4.frame.decompress(header + PackedFrames.pack(frames).blob + bytes(4)))
    assert decoded == frames.tobytes()


def test_frames_like_their_predecessor_cost_less() -> None:
    frames = make_frames(GROUP)
    packed = PackedFrames.pack(frames)
    sizes = np.diff(packed.bounds)
    assert sizes[1:].max() < 0.7 * sizes[0]
    single = PackedFrames.pack(frames[1:2])
    assert single.bounds[1] > sizes[1]


def test_every_cut_is_refused() -> None:
    blob = bytes(PackedFrames.pack(make_frames(6)).blob)
    for length in range(len(blob)):
        with pytest.raises(CorruptDataError, match=r"truncated|bytes, a frame has"):
            parse(blob[:length], 6)
    with pytest.raises(CorruptDataError, match="1 bytes left over"):
        parse(blob + b"\0", 6)
    with pytest.raises(CorruptDataError, match="left over"):
        parse(blob, 5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_leaves_whole_frames(position: int, flip: int) -> None:
    frames = make_frames(6)
    data = bytearray(PackedFrames.pack(frames).blob)
    data[position % len(data)] ^= flip
    with suppress(CorruptDataError):
        assert parse(bytes(data), 6).unpack().shape == frames.shape


@pytest.mark.parametrize("size", [131, 133, 60_000])
def test_a_block_of_another_size_than_a_frame_is_refused_by_its_name(size: int) -> None:
    good = bytes(132)
    blob = block(good) + block(good) + block(bytes(size))
    packed = (
        PackedFrames.parse(blob + block(good), rows=4, frame_shape=(11, 12), frame_dtype="uint8")
        if size < 200
        else None
    )
    if packed is not None:
        with pytest.raises(CorruptDataError, match="does not hold the frames"):
            packed.unpack()


def test_a_bomb_takes_no_more_memory_than_the_frames() -> None:
    bomb = block(bytes(65_536)) * 400  # 26 MB
    tracemalloc.start()
    try:
        with pytest.raises(CorruptDataError, match=r"does not hold the frames|bytes, a frame has"):
            parse(bomb, 400).unpack()
        assert tracemalloc.get_traced_memory()[1] < 8 * 400 * 132 + 2 * len(bomb)
    finally:
        tracemalloc.stop()


def test_an_empty_block_is_refused() -> None:
    with pytest.raises(CorruptDataError, match="frame 1 has 0 bytes"):
        parse(block(bytes(132)) + bytes(4) + block(bytes(132)), 3)


def test_frames_too_large_for_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        PackedFrames.pack(np.zeros((1, MAX_FRAME_BYTES + 1), np.uint8))
