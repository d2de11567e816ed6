"""Every tier gives the windows that the arena gives, bit by bit; nothing damaged gets through."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.storage.arena import Arena
from replay_service.storage.packed_storage import PackedStorage
from replay_service.storage.packed_windows import PackedCodec, PackedWindows, unpack_windows
from replay_service.storage.spill_files import SpillFiles
from replay_service.table.table import Table
from replay_service.table.tiers import Storage
from replay_service.table.types import TableConfig, Tier
from tests.helpers.lanes import cut_chunks, make_lane
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, decode_chunk, encode_chunk
from upcycle.experience.windows import View, valid_starts

SPEC = ChunkSpec(frame_shape=(6, 5), frame_dtype="uint8", num_actions=5, steps=8, history=3, lookahead=3)
CONFIG = TableConfig("online", 80, sampler="proportional")
TIERS: tuple[Tier, ...] = ("warm", "cold")
FILLS = st.sampled_from(["first_frame", "zeros"])
ENDINGS = ("terminated", "truncated", "open")


def make_chunks(lengths: list[int], endings: list[str], *, seed: int = 0, spec: ChunkSpec = SPEC) -> list[Chunk]:
    """Chunks with noisy frames, so that no two are alike; the last one may be short."""
    chunks, _ = cut_chunks(spec, make_lane(spec, lengths, endings, seed=seed))
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 3, (sum(lengths) + 4 * len(lengths) + 40, *spec.frame_shape))
    return [
        replace(chunk, frame=(chunk.frame + noise[number * spec.steps :][: chunk.num_rows]).astype(spec.frame_dtype))
        for number, chunk in enumerate(chunks)
    ]


def drawable(storage: Storage, spec: ChunkSpec, view: View) -> tuple[Array, Array]:
    """Slots and offsets of all valid starts."""
    slots, offsets = np.nonzero(valid_starts(spec, storage.columns, storage.num_rows, view.n_step))
    return slots.astype(np.int64), offsets.astype(np.int64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 20), st.sampled_from(ENDINGS[:2])), min_size=1, max_size=8),
    last=st.sampled_from(ENDINGS),
    view=st.builds(View, n_step=st.integers(1, 3), stack=st.integers(1, 4), stack_fill=FILLS),
    came_packed=st.booleans(),
    dtype=st.sampled_from(["uint8", "float32"]),
    cache_bytes=st.sampled_from([0, 1000, 1 << 20]),
)
def test_all_tiers_give_the_windows_of_the_arena_bit_by_bit(
    episodes: list[tuple[int, str]],
    last: str,
    view: View,
    came_packed: bool,
    dtype: str,
    cache_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    spec = replace(SPEC, frame_dtype=dtype)
    lengths, endings = [length for length, _ in episodes], [ending for _, ending in episodes]
    chunks = make_chunks(lengths, [*endings[:-1], last], spec=spec)
    if came_packed:
        chunks = [decode_chunk(encode_chunk(chunk, spec, codec="lz4"), spec) for chunk in chunks]
    num_slots = max(len(chunks) - 2, 1)  # the first ones are overwritten
    raw = Arena(spec, num_slots)
    warm = PackedStorage(spec, num_slots, codec="lz4")
    cold = PackedStorage(spec, num_slots, codec="zstd")
    files = SpillFiles(tmp_path_factory.mktemp("cold"), file_bytes=2000)
    disk = PackedStorage(spec, num_slots, codec="zstd", files=files, cache_bytes=cache_bytes)
    for number, chunk in enumerate(chunks):
        for storage in (raw, warm, cold, disk):
            storage.write(number % num_slots, chunk, generation=number + 1)
    slots, offsets = drawable(raw, spec, view)
    rng = np.random.default_rng(0)
    order = rng.integers(0, len(slots), 40) if len(slots) else np.zeros(0, np.int64)
    slots, offsets = slots[order], offsets[order]
    expected = raw.gather(slots, offsets, view)
    for storage in (warm, cold, disk):
        np.testing.assert_array_equal(storage.generation, raw.generation)
        windows = storage.gather(slots, offsets, view)
        for name in ("frames", "action", "n_step_return", "discount"):
            np.testing.assert_array_equal(getattr(windows, name), getattr(expected, name), err_msg=name)
            assert getattr(windows, name).dtype == getattr(expected, name).dtype
        packed = storage.windows(slots, offsets, view)
        again = PackedWindows.from_wire(packed.codec, packed.columns, packed.blob, view)
        np.testing.assert_array_equal(unpack_windows(again, spec), expected.frames)
        some = np.arange(0, len(slots), 3)[::-1]
        np.testing.assert_array_equal(unpack_windows(again.take(some), spec), expected.frames[some])


@pytest.mark.parametrize("tier", TIERS)
def test_tables_of_all_tiers_draw_alike(tier: Tier, tmp_path: Path) -> None:
    config = replace(CONFIG, tier=tier, cold_folder=str(tmp_path) if tier == "cold" else None)
    raw, other = (Table(config, SPEC, rng=np.random.default_rng(3)) for config in (CONFIG, config))
    view = View(n_step=3, stack=4)
    for number, chunk in enumerate(make_chunks([30, 9, 80], ["truncated", "terminated", "open"])):
        for table in (raw, other):
            table.insert(chunk, writer_id="w", sequence=number)
        expected, sample = raw.sample(16, view), other.sample(16, view)
        np.testing.assert_array_equal(sample.draw.slot, expected.draw.slot)
        np.testing.assert_array_equal(sample.windows.frames, expected.windows.frames)
        np.testing.assert_array_equal(sample.policy_version, expected.policy_version)
        other.check_invariants()
    assert raw.sample(4, view, packed=True).packed is None
    packed = other.sample(4, view, packed=True)
    assert packed.packed is not None
    assert packed.packed.codec == ("lz4" if tier == "warm" else "zstd")


def test_warm_keeps_what_the_actor_compressed() -> None:
    chunk = make_chunks([20], ["open"])[0]
    data = encode_chunk(chunk, SPEC, codec="lz4")
    storage = PackedStorage(SPEC, 1, codec="lz4")
    storage.write(0, decode_chunk(data, SPEC), generation=1)
    view = View(n_step=3, stack=4)
    assert storage.windows(np.array([0]), np.array([0]), view).blob in data


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    codec=st.sampled_from(["lz4", "zstd"]),
    position=st.integers(0, 10_000),
    flip=st.integers(1, 255),
    cut=st.integers(0, 3),
)
def test_damaged_packed_windows_are_refused_or_give_whole_frames(
    codec: PackedCodec, position: int, flip: int, cut: int
) -> None:
    storage, view = PackedStorage(SPEC, 1, codec=codec), View(n_step=3, stack=4)
    storage.write(0, make_chunks([20], ["open"])[0], generation=1)
    packed = storage.windows(np.array([0, 0]), np.array([1, 5]), view)
    columns, blob = packed.columns, bytearray(packed.blob)
    if cut == 0:
        blob[position % len(blob)] ^= flip
    elif cut == 1:
        del blob[position % len(blob) :]
    else:
        name = list(columns)[position % len(columns)]
        columns[name] = columns[name] ^ np.asarray(flip, columns[name].dtype)
    try:
        frames = unpack_windows(PackedWindows.from_wire(codec, columns, bytes(blob), view), SPEC)
    except CorruptDataError:
        return
    assert cut != 1
    assert frames.shape == (2, 7, *SPEC.frame_shape)


def test_cold_refuses_a_damaged_file(tmp_path: Path) -> None:
    files = SpillFiles(tmp_path)
    storage = PackedStorage(SPEC, 2, codec="zstd", files=files)
    storage.write(0, make_chunks([20], ["open"])[0], generation=1)
    where = np.array([0]), np.array([0]), View()
    storage.gather(*where)
    (descriptor,) = (descriptor for descriptor, _ in files._files.values())  # pyright: ignore[reportPrivateUsage]
    old = os.pread(descriptor, 1, 20)
    os.pwrite(descriptor, bytes([old[0] ^ 1]), 20)
    with pytest.raises(CorruptDataError, match=r"slot 0 of the cold tier: .* have changed"):
        storage.gather(*where)
    os.pwrite(descriptor, old, 20)
    storage.gather(*where)
    os.ftruncate(descriptor, 20)
    with pytest.raises(CorruptDataError, match=r"slot 0 of the cold tier: .* lost its end"):
        storage.gather(*where)


def test_another_codec_is_refused() -> None:
    storage, view = PackedStorage(SPEC, 1, codec="lz4"), View(n_step=3, stack=4)
    storage.write(0, make_chunks([20], ["open"])[0], generation=1)
    packed = storage.windows(np.array([0]), np.array([1]), view)
    with pytest.raises(CorruptDataError, match="codec 'jpeg'"):
        PackedWindows.from_wire("jpeg", packed.columns, packed.blob, view)


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(UserError, match="no such tier"):
        Table(replace(CONFIG, tier="hot"), SPEC, rng=np.random.default_rng(0))  # pyright: ignore[reportArgumentType]
