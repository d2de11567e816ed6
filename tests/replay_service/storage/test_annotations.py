"""Annotations stay with the state that they were written for, in every tier and over every transport."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.mapped_arena import MappedArena
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.storage.annotations import Annotations
from replay_service.storage.arena import Arena
from replay_service.table.table import Table
from replay_service.table.types import (
    SampledBatch,
    SampleRequest,
    ScanCursor,
    ScannedBatch,
    Tier,
    TransitionKeys,
    Transport,
)
from tests.helpers.chunk_factory import (
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.runs.metrics import Metrics

WIDTH, SLOTS = 3, 3
TIERS: tuple[Tier, ...] = get_args(Tier)
ANNOTATED = table_config("teacher", capacity_steps=400, annotation_width=WIDTH)


def values_of(number: Array, offset: Array) -> Array:
    """What a state is annotated with in these tests: known from its chunk and its place in it. [B, WIDTH]."""
    return np.stack([number, offset, number * 100 + offset], axis=-1).astype(np.float32)


@dataclass
class Oracle:
    """The newest chunks, and the offsets that are annotated in each."""

    chunks: dict[int, set[int]] = field(default_factory=dict[int, set[int]])

    def insert(self, number: int) -> None:
        self.chunks[number] = set()
        while len(self.chunks) > SLOTS:
            del self.chunks[min(self.chunks)]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data(), tier=st.sampled_from(TIERS))
def test_any_sequence_of_calls_annotates_like_a_plain_list(data: st.DataObject, tier: Tier) -> None:
    config = table_config(capacity_steps=SLOTS * SPEC.steps, tier=tier, annotation_width=WIDTH)
    table, oracle, number, num_stale = Table(config, SPEC, rng=np.random.default_rng(0)), Oracle(), 0, 0
    calls = st.lists(st.sampled_from(["insert", "annotate", "annotate", "sample", "scan"]), min_size=5, max_size=20)
    for call in ["insert"] * data.draw(st.integers(0, SLOTS + 1)) + data.draw(calls):
        match call:
            case "insert":
                number += 1
                table.insert(make_chunk(number), writer_id="w", sequence=number)
                oracle.insert(number)
            case "annotate" if number:  # chunk n has generation n, and lay in slot (n - 1) % SLOTS
                keys = st.tuples(st.integers(1, number), st.integers(0, SPEC.steps - 1))
                chosen = np.array(data.draw(st.lists(keys, min_size=1, max_size=8)))
                slots, values = (chosen[:, 0] - 1) % SLOTS, values_of(chosen[:, 0], chosen[:, 1])
                stale = table.annotate(slots, chosen[:, 1], chosen[:, 0], values)
                assert stale == sum(chunk not in oracle.chunks for chunk in chosen[:, 0].tolist())
                num_stale += stale
                for chunk, offset in chosen.tolist():
                    oracle.chunks.get(chunk, set[int]()).add(offset)
            case "sample" if number:
                sample = table.sample(6, VIEW)
                check_rows(sample.policy_version, sample.draw.offset, sample.annotation, sample.annotated, oracle)
            case "scan" if number:
                sample, _, ended = table.scan(ScanCursor(), 100, VIEW, only_missing=True)
                missing = [(n, at) for n in oracle.chunks for at in range(SPEC.steps) if at not in oracle.chunks[n]]
                assert ended
                assert list(zip(sample.policy_version, sample.draw.offset, strict=True)) == sorted(missing)
            case _:
                pass
        table.check_invariants()
        stats = table.stats()
        assert (stats.num_annotated, stats.num_stale_annotations) == (sum(map(len, oracle.chunks.values())), num_stale)


def check_rows(
    numbers: Array, offsets: Array, annotation: Array | None, annotated: Array | None, oracle: Oracle
) -> None:
    assert annotation is not None
    assert annotated is not None
    expected = [offset in oracle.chunks[n] for n, offset in zip(numbers.tolist(), offsets.tolist(), strict=True)]
    assert annotated.tolist() == expected
    np.testing.assert_array_equal(annotation, values_of(numbers, offsets) * annotated[:, None])


def fill(replay: ShardedReplay, table: str, numbers: range) -> None:
    for number in numbers:
        replay.insert(table, [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)


def sample(replay: ShardedReplay, table: str, batch_size: int = 64) -> SampledBatch:
    return replay.sample(
        SampleRequest(
            tables=table, batch_size=batch_size, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
        )
    )[0]


def annotate(replay: ShardedReplay, table: str, batch: SampledBatch | ScannedBatch) -> int:
    return replay.annotate(table, batch.keys, values_of(batch.policy_version, batch.keys.offset))


@pytest.mark.parametrize("transport", get_args(Transport))
def test_annotations_come_back_with_the_windows(transport: Transport) -> None:
    tables = [table_config(tier, capacity_steps=400, tier=tier, annotation_width=WIDTH) for tier in TIERS]
    with (
        running_shards([*tables, table_config("plain")], count=2) as (_, addresses),
        connected(addresses, transport=transport) as replay,
    ):
        for tier in TIERS:
            fill(replay, tier, range(12))
            before = sample(replay, tier)
            assert before.annotated is not None
            assert not before.annotated.any()
            for batch in replay.scan(tier, 40, view=VIEW):
                even = np.flatnonzero(batch.keys.offset % 2 == 0)
                values = values_of(batch.policy_version, batch.keys.offset)
                for _ in range(2):  # repeating changes nothing
                    assert replay.annotate(tier, batch.keys.take(even), values[even]) == len(even)
            after = sample(replay, tier, 200)
            assert after.annotation is not None
            assert after.annotated is not None
            assert after.annotation.dtype == np.float32
            np.testing.assert_array_equal(after.annotated, after.keys.offset % 2 == 0)
            expected = values_of(after.policy_version, after.keys.offset) * after.annotated[:, None]
            np.testing.assert_array_equal(after.annotation, expected)
            assert (after.windows.frames == after.policy_version[:, None, None, None]).all()
            stats = replay.stats(tier)
            assert (stats.num_annotated, stats.annotation_width) == (12 * 4, WIDTH)
        fill(replay, "plain", range(2))
        plain = sample(replay, "plain")
        assert (plain.annotation, plain.annotated) == (None, None)


def test_late_and_lost_annotations_are_dropped_and_counted() -> None:
    metrics = Metrics("learner", "test")
    config = table_config("teacher", capacity_steps=SPEC.steps, annotation_width=WIDTH)  # one chunk a shard
    with (
        running_shards([config], count=2) as (shards, addresses),
        connected(addresses, metrics=metrics) as replay,
    ):
        fill(replay, "teacher", range(2))
        batch = sample(replay, "teacher", 32)
        with connected({0: addresses[0]}) as single:
            fill(single, "teacher", range(2, 3))
        assert annotate(replay, "teacher", batch) == 16
        stats = replay.stats("teacher")
        assert (stats.num_stale_annotations, stats.shards[0].num_stale_annotations) == (16, 16)
        assert stats.shards[0].num_annotated == 0
        later = sample(replay, "teacher")
        assert later.annotated is not None
        assert not later.annotated[later.policy_version == 2].any()
        shards[1].stop(grace_seconds=0.1)
        assert annotate(replay, "teacher", later) == np.count_nonzero(later.keys.shard == 0)
        assert metrics.value("replay_dropped_annotations_total") == np.count_nonzero(later.keys.shard == 1)


def test_what_cannot_be_annotated_is_refused_with_its_reason() -> None:
    with (
        running_shards([ANNOTATED, table_config("plain")]) as (_, addresses),
        connected(addresses) as replay,
    ):
        fill(replay, "teacher", range(2))
        fill(replay, "plain", range(2))
        keys = sample(replay, "teacher", 4).keys
        good = np.ones((4, WIDTH), np.float32)
        for table, values, field_name in [("plain", good, "annotation_width"), ("teacher", good[:, :2], "width")]:
            with pytest.raises(UserError, match=field_name):
                replay.annotate(table, keys, values)
        for values in (good[:3], good[0], np.full((4, WIDTH), np.nan)):
            with pytest.raises(ValueError, match="annotations"):
                replay.annotate("teacher", keys, values)
        with pytest.raises(ValueError, match="name the table"):
            replay.annotate(None, keys, good)
        elsewhere = TransitionKeys(keys.shard, keys.slot + 1000, keys.offset, keys.generation)
        with pytest.raises(ValueError, match="outside the table"):
            replay.annotate("teacher", elsewhere, good)
        with pytest.raises(UserError, match="keeps no annotations"):
            list(replay.scan("plain", 4, view=VIEW, only_missing=True))
        assert replay.stats("teacher").num_annotated == 0


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(UserError, match="annotation_width"), running_shards([table_config(annotation_width=-1)]):
        pass


def test_shards_of_different_widths_are_refused() -> None:
    with (
        running_shards([table_config(annotation_width=2)]) as (_, first),
        running_shards([table_config(annotation_width=3)]) as (_, second),
        connected({0: first[0], 1: second[0]}) as replay,
    ):
        fill(replay, "online", range(2))
        with pytest.raises(UserError, match="differs between the shards"):
            sample(replay, "online")
        with pytest.raises(UserError, match="at another shard"):
            list(replay.scan("online", 4, view=VIEW))


class HalfWritten(np.ndarray[tuple[int, ...], np.dtype[np.float32]]):
    """Values whose writing is looked at from outside when the first is there."""

    look: "Iterator[None]"

    def __setitem__(self, key: object, value: object) -> None:
        next(self.look)
        super().__setitem__(key, value)  # pyright: ignore[reportArgumentType, reportCallIssue]
        next(self.look)


def test_a_flag_is_never_seen_before_its_values() -> None:
    """A reader of the same memory looks just before and just after the values are written."""
    columns = {"annotation": np.zeros((2, 4, WIDTH), np.float32), "annotated": np.zeros((2, 4), bool)}
    reader, seen = Annotations(columns), list[bool]()
    place = (np.array([1]), np.array([2]))

    def look() -> Iterator[None]:
        for _ in range(2):
            seen.append(bool(reader.read(*place)[1][0]))
            yield

    watched = columns["annotation"].view(HalfWritten)
    watched.look = look()
    Annotations({**columns, "annotation": watched}).write(*place, np.ones((1, WIDTH), np.float32))
    assert seen == [False, False]
    assert reader.read(*place)[1].tolist() == [True]


def test_annotations_of_the_chunk_before_are_told_by_the_generation() -> None:
    arena = Arena(SPEC, 2, annotation_width=WIDTH)
    mapped = MappedArena(arena, incarnation=1)
    place = (np.array([0]), np.array([3]))
    out = np.empty((1, VIEW.stack + VIEW.n_step, *SPEC.frame_shape), np.uint8)
    assert arena.annotations is not None
    arena.write(0, make_chunk(1), generation=1)
    arena.annotations.write(*place, np.ones((1, WIDTH), np.float32))
    assert mapped.values(*place, VIEW)["annotation"].tolist() == [[1.0] * WIDTH]
    assert arena.write(0, make_chunk(2), generation=2) == 1
    # Whoever drew generation 1 finds no annotation any more, and learns that the row is gone.
    assert mapped.values(*place, VIEW)["annotated"].tolist() == [False]
    assert mapped.copy_frames(*place, np.array([1]), VIEW, out=out).tolist() == [False]


@pytest.mark.slow
def test_a_reader_of_the_arena_meets_writers() -> None:
    """Inserts lap a small table that is annotated and sampled: every annotation is that of its own row, and whole."""
    stop, failures = threading.Event(), list[str]()
    config = table_config("teacher", capacity_steps=32, annotation_width=WIDTH)
    with (
        running_shards([config]) as (_, addresses),
        connected(addresses) as writer,
        connected(addresses) as annotator,
        connected(addresses) as reader,
    ):
        fill(writer, "teacher", range(4))

        def write() -> None:
            number = 4
            while not stop.wait(0.002):
                fill(writer, "teacher", range(number, number + 1))
                number += 1

        def write_annotations() -> None:
            while not stop.is_set():
                annotate(annotator, "teacher", sample(annotator, "teacher"))

        threads = [threading.Thread(target=write), threading.Thread(target=write_annotations)]
        for thread in threads:
            thread.start()
        try:
            num_annotated = 0
            for _ in range(300):
                batch = sample(reader, "teacher")
                assert batch.annotation is not None
                assert batch.annotated is not None
                expected = values_of(batch.policy_version, batch.keys.offset) * batch.annotated[:, None]
                if not np.array_equal(batch.annotation, expected):
                    failures.append("an annotation of another state, or half of one")
                num_annotated += np.count_nonzero(batch.annotated)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not failures
    assert num_annotated > 0
