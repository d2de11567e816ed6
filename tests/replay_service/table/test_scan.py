"""A pass sees each stored transition once, whatever happens meanwhile."""

import signal
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.client.table_scan import ScanIncomplete
from replay_service.table.scan import MAX_SLOTS, next_items
from replay_service.table.table import Table
from replay_service.table.types import ReplayTimeout, SampleRequest, ScanCursor, ScannedBatch, Tier, Transport
from tests.helpers.chunk_factory import (
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from tests.helpers.shard_process import ShardProcess
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View

Key = tuple[int, int, int, int]
BIG = table_config(capacity_steps=800)
LOGGED = table_config(capacity_steps=4000)


def insert(replay: ShardedReplay, numbers: Iterable[int], table: str = "online") -> None:
    for number in numbers:
        replay.insert(table, [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)


def rows(batch: ScannedBatch) -> list[tuple[int, int]]:
    """Chunk number and offset of each row."""
    return list(zip(batch.policy_version.tolist(), batch.keys.offset.tolist(), strict=True))


def all_rows(numbers: Iterable[int], steps: int = SPEC.steps) -> list[tuple[int, int]]:
    return [(number, offset) for number in numbers for offset in range(steps)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_pass_over_a_table_that_changes_sees_what_stays_once(data: st.DataObject) -> None:
    """Against a plain list: what was there at the first call and is not overwritten before its turn, in order."""
    slots = data.draw(st.integers(1, 5))
    config = table_config(capacity_steps=slots * SPEC.steps, annotation_width=1)
    table, number = Table(config, SPEC, rng=np.random.default_rng(0)), 0
    chunks = dict[int, Array]()

    def insert_one() -> None:
        nonlocal number
        number += 1
        priorities = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=SPEC.steps, max_size=SPEC.steps))
        table.insert(make_chunk(number, priorities=priorities), writer_id="w", sequence=number)
        chunks[number] = np.flatnonzero(priorities)

    for _ in range(data.draw(st.integers(0, 7))):
        insert_one()
    expected = {key for n in chunks if n > number - slots for key in ((n, int(at)) for at in chunks[n])}
    begun_with, cursor, ended, seen = number, ScanCursor(), False, list[tuple[int, int]]()
    draws_before = table.stats()
    while not ended:
        limit = data.draw(st.integers(1, 12))
        oldest = number - slots + 1
        sample, cursor, ended = table.scan(cursor, limit, VIEW, only_missing=False)
        assert len(sample.draw.slot) <= limit
        found = list(zip(sample.policy_version.tolist(), sample.draw.offset.tolist(), strict=True))
        # Of what lies ahead and is still there, exactly the first so many: nothing skipped, nothing twice.
        ahead = sorted(
            key for key in expected if key not in seen and key[0] >= oldest and key > max(seen, default=(0, 0))
        )
        assert found == ahead[:limit]
        assert (sample.windows.frames[:, 0, 0, 0] == sample.policy_version).all()
        seen += found
        for _ in range(data.draw(st.integers(0, 2))):
            insert_one()
    assert max((n for n, _ in seen), default=0) <= begun_with
    assert table.stats().num_sampled == draws_before.num_sampled == 0
    table.check_invariants()


def test_a_call_looks_at_so_many_slots_and_no_more() -> None:
    """However little it finds there; the pass then goes on behind them."""
    looked_at = list[int]()

    def none_but_the_last(slots: Array) -> Array:
        looked_at.append(len(slots))
        return np.repeat(slots[:, None] == 2 * MAX_SLOTS, SPEC.steps, axis=1)

    generation, cursor, ended, found = np.arange(1, 2 * MAX_SLOTS + 2), ScanCursor(), False, list[int]()
    while not ended:
        slots, _, cursor, ended = next_items(generation, 0, cursor, 5, none_but_the_last)
        found += slots.tolist()
    assert looked_at == [MAX_SLOTS, MAX_SLOTS, 1, 1]
    assert found == [2 * MAX_SLOTS] * SPEC.steps


def test_a_longer_horizon_leaves_out_what_cannot_be_seen_with_it_and_changes_no_draw() -> None:
    with running_shards([BIG], seed=1) as (_, addresses), connected(addresses) as replay:
        replay.insert("online", [make_data(1)], writer_id="w", first_sequence=0, timeout_seconds=10)
        mass = replay.stats("online").mass
        longer = View(n_step=2, stack=2)
        assert [rows(batch) for batch in replay.scan("online", 100, view=longer)] == [all_rows([1])]
        stats = replay.stats("online")
        assert (stats.mass, stats.num_sampled) == (mass, 0)
        with pytest.raises(ValueError, match="n_step 3"):
            replay.scan("online", 4, view=View(n_step=3, stack=2))
        with pytest.raises(ValueError, match="batch_size 0"):
            replay.scan("online", 0, view=VIEW)


@pytest.mark.parametrize("transport", get_args(Transport))
@pytest.mark.parametrize("tier", get_args(Tier))
def test_a_pass_over_all_shards(tier: Tier, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay_service.client.table_scan.MAX_BULK_BYTES", 1000)  # several calls for each batch
    config = replace(BIG, tier=tier, samples_per_insert=1.0, error_buffer_steps=400)
    with (
        running_shards([config], count=3) as (_, addresses),
        connected(addresses, transport=transport) as replay,
    ):
        insert(replay, range(20))
        if transport != "tcp":
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
        before = replay.stats("online").flow
        batches = list(replay.scan("online", 33, view=VIEW))
        assert replay.stats("online").flow == before  # it counts as no sampling
    assert [len(batch.policy_version) for batch in batches] == [33] * 4 + [28]
    found = [row for batch in batches for row in rows(batch)]
    assert sorted(found) == all_rows(range(20))
    shards = np.concatenate([batch.keys.shard for batch in batches])
    numbers = np.concatenate([batch.policy_version for batch in batches])
    assert (np.diff(shards) >= 0).all()
    assert all((np.diff(numbers[shards == shard]) >= 0).all() for shard in range(3))
    for batch in batches:
        assert (batch.windows.frames == batch.policy_version[:, None, None, None]).all()
        np.testing.assert_allclose(batch.windows.n_step_return, np.clip(batch.policy_version % 7, 0, 1))
        assert batch.annotation is None


def keys_of(batch: ScannedBatch) -> list[Key]:
    keys = batch.keys
    return list(zip(*(part.tolist() for part in (keys.shard, keys.slot, keys.offset, keys.generation)), strict=True))


def test_nothing_is_seen_twice_while_others_insert() -> None:
    """Inserts overwrite half of the table during the pass, which ends although they go on."""
    config = table_config(capacity_steps=40 * SPEC.steps)
    stop, started = threading.Event(), threading.Event()
    with (
        running_shards([config], count=2) as (_, addresses),
        connected(addresses) as writer,
        connected(addresses) as reader,
    ):
        insert(writer, range(80))

        def write() -> None:
            number = 80
            while not stop.is_set():
                insert(writer, [number])
                number += 1
                started.set()

        thread = threading.Thread(target=write)
        seen = Counter[tuple[int, int]]()
        keys = Counter[Key]()
        thread.start()
        try:
            assert started.wait(20)
            for batch in reader.scan("online", 24, view=VIEW):
                assert (batch.windows.frames == (batch.policy_version % 256)[:, None, None, None]).all()
                seen.update(rows(batch))
                keys.update(keys_of(batch))
        finally:
            stop.set()
            thread.join()
        oldest_left = {
            index: stats.num_inserted // SPEC.steps - 40 for index, stats in writer.stats("online").shards.items()
        }
    assert set(keys.values()) == set(seen.values()) == {1}
    numbers = Counter(number for number, _ in seen)
    assert set(numbers.values()) == {SPEC.steps}  # whole chunks
    # Chunk n lies in shard n % 2 (or the other way round) as its n // 2 th; what was never overwritten has been seen.
    never_overwritten = {n for n in range(80) if n // 2 >= max(oldest_left.values())}
    assert never_overwritten <= set(numbers)


def test_an_annotation_that_was_interrupted_is_resumed() -> None:
    config = table_config("teacher", capacity_steps=800, annotation_width=2)
    with running_shards([config], count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, range(20), "teacher")
        annotated = list[tuple[int, int]]()
        for batch in replay.scan("teacher", 30, view=VIEW, only_missing=True):
            replay.annotate("teacher", batch.keys, np.ones((len(batch.policy_version), 2), np.float32))
            annotated += rows(batch)
            if len(annotated) >= 60:
                break
        insert(replay, range(20, 24), "teacher")
        with connected(addresses, seed=1) as other:  # another process, later
            rest = [row for batch in other.scan("teacher", 30, view=VIEW, only_missing=True) for row in rows(batch)]
            assert sorted(annotated + rest) == all_rows(range(24))
            everything = [row for batch in other.scan("teacher", 30, view=VIEW) for row in rows(batch)]
            assert sorted(everything) == all_rows(range(24))


def drain(scan: Iterable[ScannedBatch], batches: list[ScannedBatch]) -> None:
    """Appends what comes, also if an error follows."""
    for batch in scan:
        batches.append(batch)


@pytest.mark.slow
def test_a_shard_killed_and_restarted_in_mid_pass_ends_its_part_and_says_so(tmp_path: Path) -> None:
    """It has all its chunks again, as other generations: none is shown twice, and the caller learns that some miss."""
    processes = [ShardProcess(tmp_path, index, LOGGED) for index in range(2)]
    addresses = {index: process.address for index, process in enumerate(processes)}
    try:
        with connected(addresses) as replay:
            insert(replay, range(20))
            scan = replay.scan("online", 16, view=VIEW, timeout_seconds=60)
            batches = [next(scan)]
            begun = {number for number, _ in rows(batches[0])}
            processes[0].end(signal.SIGKILL)
            processes.append(ShardProcess(tmp_path, 0, LOGGED))
            addresses[0] = processes[-1].address
            with pytest.raises(ScanIncomplete, match="shard 0 was restarted"):
                drain(scan, batches)
            assert replay.stats("online").num_transitions == 20 * SPEC.steps
    finally:
        for process in processes:
            process.end(signal.SIGKILL)
    seen = [row for batch in batches for row in rows(batch)]
    assert len(seen) == len(set(seen))
    assert {index for batch in batches[1:] for index in batch.keys.shard.tolist()} == {1}
    others = {number for number, _ in seen} - begun
    assert len(others) == 10  # all of the other shard's
    assert sorted(seen) == all_rows(sorted(begun | others))


def test_a_shard_that_is_away_is_waited_for_and_then_given_up() -> None:
    with running_shards([BIG], count=2) as (shards, addresses), connected(addresses) as replay:
        insert(replay, range(20))
        shards[0].stop(grace_seconds=0.1)
        batches = list[ScannedBatch]()
        with pytest.raises(ScanIncomplete, match="shard 0 did not answer"):
            drain(replay.scan("online", 64, view=VIEW, timeout_seconds=0.2), batches)
        seen = [row for batch in batches for row in rows(batch)]
        assert len(set(seen)) == len(seen) == 10 * SPEC.steps


def test_a_shard_that_was_out_of_reach_for_a_while_goes_on_where_it_was() -> None:
    with running_shards([BIG], count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, range(20))
        scan = replay.scan("online", 16, view=VIEW, timeout_seconds=30)
        seen = rows(next(scan))
        members = replay._members  # pyright: ignore[reportPrivateUsage]
        members.lost(0, members.live()[0])
        for batch in scan:
            seen += rows(batch)
        assert sorted(seen) == all_rows(range(20))


@pytest.mark.parametrize("tier", get_args(Tier))
def test_a_pass_over_nothing(tier: Tier) -> None:
    with running_shards([replace(BIG, tier=tier)]) as (_, addresses), connected(addresses) as replay:
        assert list(replay.scan("online", 4, view=VIEW)) == []
        with pytest.raises(UserError, match="no such table"):
            list(replay.scan("offline", 4, view=VIEW))
    with connected({}) as replay, pytest.raises(ReplayTimeout, match="no replay shard answers"):
        list(replay.scan("online", 4, view=VIEW))
