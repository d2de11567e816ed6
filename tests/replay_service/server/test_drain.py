"""Shards that drain and leave: nothing new comes in, everything else goes on, and no caller notices."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.log_sink import EncodedChunk
from replay_service.server.served_table import ServedTable
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, TableDraw
from tests.helpers.chunk_factory import (
    ENV,
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from tests.replay_service.server.test_admission_queue import WAIT_SECONDS, served, wait_until
from tests.replay_service.wire.test_inspection import make_table
from upcycle.errors import UserError
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.runs.metrics import Metrics

BIG = table_config(capacity_steps=400)
LIMITED = table_config(capacity_steps=400, samples_per_insert=1.0, error_buffer_steps=16, min_size_to_sample=8)


def insert(replay: ShardedReplay, number: int, *, timeout_seconds: float = 10) -> None:
    replay.insert("online", [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=timeout_seconds)


def sample(replay: ShardedReplay, batch_size: int, *, timeout_seconds: float = 10) -> SampledBatch:
    return replay.sample(
        SampleRequest(
            tables="online",
            batch_size=batch_size,
            view=VIEW,
            importance_sampling_exponent=0.5,
            timeout_seconds=timeout_seconds,
        )
    )[0]


def drain(address: str, *, cancel: bool = False) -> dict[str, TableStats]:
    client = ShardClient(address, SPEC)
    try:
        return client.drain(cancel=cancel, timeout_seconds=10)
    finally:
        client.close()


def insert_at(address: str, number: int) -> int:
    """Sends a chunk to one shard; returns how many it has taken."""
    client = ShardClient(address, SPEC)
    try:
        return client.insert(
            "online",
            [make_data(number)],
            writer_id="w",
            first_sequence=number,
            max_priority=1.0,
            timeout_seconds=WAIT_SECONDS,
        )[0]
    finally:
        client.close()


def num_chunks(replay: ShardedReplay) -> dict[int, int]:
    return {index: stats.num_chunks for index, stats in replay.stats("online").shards.items()}


def test_a_draining_shard_takes_nothing_and_everything_else_goes_on(tmp_path: Path) -> None:
    tables = [BIG, table_config("teacher")]
    with (
        ExperienceLogWriter.open(tmp_path, SPEC, ENV) as log,
        running_shards(tables, count=2, logs={1: log}) as (_, addresses),
        connected(addresses) as replay,
    ):
        for number in range(8):
            insert(replay, number)
        for _ in range(2):
            assert {name: state.draining for name, state in drain(addresses[1]).items()} == {
                "online": True,
                "teacher": True,
            }
        for number in range(8, 14):
            insert(replay, number)
        assert num_chunks(replay) == {0: 10, 1: 4}
        stats = replay.stats("online")
        assert {index: shard.draining for index, shard in stats.shards.items()} == {0: False, 1: True}
        assert not stats.draining
        batch = sample(replay, 14 * 8)
        assert np.count_nonzero(batch.keys.shard == 1) == 4 * 8  # its part of the mass
        replay.update_priorities("online", batch.keys, np.full(14 * 8, 5.0))
        assert replay.stats("online").shards[1].mass > 4 * 8
        held = int(batch.policy_version[batch.keys.shard == 1][0])
        assert [insert_at(addresses[1], number) for number in (held, 99)] == [1, 0]  # what it has, it acknowledges
        assert not drain(addresses[1], cancel=True)["online"].draining
        replay.stats("online")
        for number in range(14, 18):
            insert(replay, number)
        assert num_chunks(replay) == {0: 10, 1: 8}  # it catches up
    assert ExperienceLogReader.open(tmp_path).num_chunks == 8


def test_a_client_that_has_not_heard_of_the_drain_goes_to_the_others() -> None:
    with running_shards([BIG], count=2) as (_, addresses), connected(addresses) as replay:
        drain(addresses[0])
        for number in range(6):
            insert(replay, number, timeout_seconds=0.0)  # in the first round over the shards, so without any wait
        assert num_chunks(replay) == {0: 0, 1: 6}


def test_inserts_in_line_are_sent_away() -> None:
    table, results = served(make_table(LIMITED)), list[int]()

    def store(number: int) -> None:
        encoded, writer = EncodedChunk(make_data(number), make_chunk(number), SPEC.steps), f"writer-{number}"
        granted, _ = table.reserve(1, writer_id=writer, wait_seconds=10**6, waited_seconds=0.0)
        results.append(table.insert([encoded], writer_id=writer, first_sequence=0)[0] if granted else 0)

    for number in range(3):
        store(number)
    threads = [threading.Thread(target=store, args=(number,)) for number in range(3, 7)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(table.waiting_inserts) == 4)
    table.drain(True)
    for thread in threads:  # each of which would have waited for eleven days
        thread.join()
    assert results == [1, 1, 1, 0, 0, 0, 0]
    store(7)
    assert results[-1] == 0
    table.drain(False)
    waiting = threading.Thread(target=store, args=(8,))
    waiting.start()
    wait_until(lambda: len(table.waiting_inserts) == 1)
    assert table.admit(24, wait_seconds=0.0)[0] == 24
    waiting.join()
    assert results[-1] == 1


def test_an_insert_under_way_is_stored_before_the_drain_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    table, begun, go_on = served(make_table(BIG)), threading.Event(), threading.Event()
    store_for_real = type(table._table).insert  # pyright: ignore[reportPrivateUsage]

    def store_late(*arguments: Any, **named: Any) -> bool:
        begun.set()
        assert go_on.wait(WAIT_SECONDS)
        return store_for_real(*arguments, **named)

    monkeypatch.setattr(type(table._table), "insert", store_late)  # pyright: ignore[reportPrivateUsage]
    encoded, drained = EncodedChunk(make_data(0), make_chunk(0), SPEC.steps), list[int]()
    writer = threading.Thread(target=lambda: table.insert([encoded], writer_id="w", first_sequence=0))

    def drain_table() -> None:
        table.drain(True)
        drained.append(table.stats().num_chunks)

    drainer = threading.Thread(target=drain_table)
    writer.start()
    assert begun.wait(WAIT_SECONDS)
    drainer.start()
    go_on.set()
    writer.join()
    drainer.join()
    assert drained == [1]


def test_inserts_fail_when_all_shards_drain_and_succeed_once_one_does_not() -> None:
    """The client only inserts, so that what it knows of the shards comes with the replies to that."""
    with running_shards([BIG], count=2) as (shards, addresses), connected(addresses) as replay:
        drain(addresses[0])
        insert(replay, 0)
        drain(addresses[1])
        with pytest.raises(UserError, match=r"replay shards = \[0, 1\]: are all draining.*cancel a drain"):
            insert(replay, 1, timeout_seconds=10**6)

        def is_inserted() -> bool:
            try:
                insert(replay, 1)
            except UserError:
                return False
            return True

        drain(addresses[0], cancel=True)
        wait_until(is_inserted)
        assert [shard.stats("online").num_chunks for shard in shards] == [1, 1]


def test_chunks_taken_before_all_shards_drained_are_not_taken_again() -> None:
    """Of a bulk of four chunks the limiter lets three in; then all shards drain, and then another one joins."""
    with running_shards([LIMITED], count=2) as (_, addresses):
        announced = {0: addresses[0]}
        with connected(announced) as replay:
            bulk = [make_data(number) for number in range(4)]

            def insert_bulk(timeout_seconds: float) -> None:
                replay.insert("online", bulk, writer_id="w", first_sequence=0, timeout_seconds=timeout_seconds)

            with pytest.raises(ReplayTimeout, match="3 of 4"):
                insert_bulk(0.0)
            drain(addresses[0])
            replay.stats("online")
            with pytest.raises(UserError, match="draining"):
                insert_bulk(10**6)
            announced[1] = addresses[1]
            wait_until(lambda: len(replay.stats("online").shards) == 2)
            insert_bulk(10)
            assert num_chunks(replay) == {0: 3, 1: 1}


def test_a_shard_that_is_away_may_come_back_so_that_inserts_wait_for_it() -> None:
    with running_shards([BIG], count=2) as (shards, addresses), connected(addresses) as replay:
        drain(addresses[0])
        replay.stats("online")
        shards[1].stop(grace_seconds=0.0)
        with pytest.raises(ReplayTimeout):
            insert(replay, 0, timeout_seconds=0.3)


def test_a_shard_leaves_between_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its endpoint is withdrawn while it draws; the batch has its part all the same, and the next one has not."""
    with running_shards([BIG], count=2) as (shards, addresses):
        announced, metrics = dict(addresses), Metrics("learner", "test")
        with connected(announced, metrics=metrics) as replay:
            for number in range(8):
                insert(replay, number)
            before = sample(replay, 64)
            drain(addresses[1])
            leaving, draw_for_real = shards[1]._tables["online"], ServedTable.draw  # pyright: ignore[reportPrivateUsage]
            begun, go_on = threading.Event(), threading.Event()

            def draw_late(table: ServedTable, *arguments: Any, **options: Any) -> tuple[TableDraw, TableStats]:
                if table is leaving:
                    begun.set()
                    assert go_on.wait(WAIT_SECONDS)
                return draw_for_real(table, *arguments, **options)

            monkeypatch.setattr(ServedTable, "draw", draw_late)
            batches = list[SampledBatch]()
            sampler = threading.Thread(target=lambda: batches.append(sample(replay, 64)))
            sampler.start()
            assert begun.wait(WAIT_SECONDS)
            del announced[1]
            members = replay._members  # pyright: ignore[reportPrivateUsage]
            wait_until(lambda: list(members.live()) == [0])
            go_on.set()
            sampler.join()
            assert np.count_nonzero(batches[0].keys.shard == 1) == 32
            assert batches[0].probabilities == pytest.approx(np.full(64, 1 / 64))
            shards[1].stop()
            after = sample(replay, 64)
            assert set(after.keys.shard.tolist()) == {0}
            assert after.probabilities == pytest.approx(np.full(64, 1 / 32))
            replay.update_priorities("online", before.keys, np.full(64, 2.0))
            assert metrics.value("replay_dropped_updates_total") == 32
            insert(replay, 8)
            assert num_chunks(replay) == {0: 5}


def test_a_request_larger_than_the_buffer_that_is_left_is_admitted_in_turns() -> None:
    with running_shards([LIMITED], count=2) as (_, addresses):
        announced = dict(addresses)
        with connected(announced) as replay:
            for number in range(6):
                insert(replay, number)
            assert len(sample(replay, 24).probabilities) == 24  # within the 32 of both
            drain(addresses[1])
            del announced[1]
            wait_until(lambda: len(replay.stats("online").shards) == 1)

            def write() -> None:
                for number in range(6, 16):
                    insert(replay, number, timeout_seconds=WAIT_SECONDS)

            writer = threading.Thread(target=write)
            writer.start()
            for _ in range(3):
                assert len(sample(replay, 24, timeout_seconds=WAIT_SECONDS).probabilities) == 24  # the buffer is 16
            writer.join()
            flow = replay.stats("online").flow
            assert abs(flow.surplus) <= flow.error_buffer_steps == 16
