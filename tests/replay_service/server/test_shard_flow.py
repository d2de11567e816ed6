"""Calls that wait at a shard, and those that are answered meanwhile."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.relay import CountingRelay
from replay_service.client.shard_client import ShardClient
from replay_service.server.log_sink import EncodedChunk
from replay_service.server.served_table import ServedTable
from tests.helpers.chunk_factory import (
    SPEC,
    running_shards,
    sample_request,
    table_config,
)
from tests.replay_service.server.test_admission_queue import wait_until
from tests.replay_service.server.test_shard import LIMITED, insert, reserve
from upcycle.errors import CorruptDataError


def test_inserts_wait_for_samples_and_go_on_when_they_come() -> None:
    with running_shards([LIMITED]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        assert [insert(client, number) for number in range(4)] == [1, 1, 1, 0]  # 8 free, 16 within the buffer
        assert reserve(client, wait_seconds=0.05) == 0
        results = list[int]()
        waiting = threading.Thread(target=lambda: results.append(reserve(client, 3, wait_seconds=5.0)))
        waiting.start()
        assert client.admit("online", 8, wait_seconds=0.0, timeout_seconds=5)[0] == 8
        waiting.join(timeout=20)
        assert results == [1]  # of 3
        assert insert(client, 9, writer_id="other") == 0  # what is reserved is no room for others
        assert insert(client, 3) == 1
        stats = client.stats("online", timeout_seconds=5)
        assert (stats.flow.surplus, stats.num_inserted, stats.num_sampled) == (16, 32, 8)
        client.close()


def test_a_table_without_a_ratio_has_room_at_once() -> None:
    with running_shards([table_config()]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        assert [reserve(client, 7, writer_id=f"w{number}") for number in range(20)] == [7] * 20
        with pytest.raises(ValueError, match="num_chunks 0"):
            reserve(client, 0)
        client.close()


def test_waiting_writers_never_use_up_the_threads_that_others_need() -> None:
    with running_shards([LIMITED]) as (shards, addresses):
        client = ShardClient(addresses[0], SPEC)
        for number in range(3):
            insert(client, number)
        with ThreadPoolExecutor(200) as threads:  # more than may wait; the others are answered at once
            granted = [
                threads.submit(reserve, client, wait_seconds=5.0, writer_id=f"w{number}") for number in range(200)
            ]
            assert client.stats("online", timeout_seconds=5.0).num_transitions == 24
            columns, _, _ = client.begin_sample(sample_request("online", 4), timeout_seconds=5.0)()
            assert len(columns["slot"]) == 4
            assert insert(client, 2) == 1  # a repeated insert, which needs no room
            assert client.admit("online", 8, wait_seconds=0.0, timeout_seconds=5.0)[0] == 8
            wait_until(lambda: any(future.done() and future.result() == 1 for future in granted))
            shards[0].stop(grace_seconds=5.0)
            outcomes = [future.exception() or future.result() for future in granted]
        assert sum(outcome == 1 for outcome in outcomes) == 1
        client.close()


def test_inserts_are_worked_on_two_at_a_time_and_others_are_answered_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    working, most, release, verify = 0, 0, threading.Event(), ServedTable.verify
    lock = threading.Lock()

    def slow_verify(table: ServedTable, payloads: Sequence[bytes]) -> list[EncodedChunk]:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        assert release.wait(30)
        with lock:
            working -= 1
        return verify(table, payloads)

    with running_shards([table_config(capacity_steps=800)]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        insert(client, 0)
        monkeypatch.setattr(ServedTable, "verify", slow_verify)
        with ThreadPoolExecutor(32) as threads:
            inserts = [threads.submit(insert, client, number) for number in range(1, 33)]
            wait_until(lambda: working == 2)
            columns, _, _ = client.begin_sample(sample_request("online", 4), timeout_seconds=5.0)()
            assert len(columns["slot"]) == 4
            client.check_health(timeout_seconds=5.0)
            assert client.stats("online", timeout_seconds=5.0).num_transitions == 8
            release.set()
            assert [future.result() for future in inserts] == [1] * 32
        assert most == 2
        client.close()


def test_of_inserts_that_nobody_reads_yet_little_is_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 messages of 4 MB, two of which are being read: all of them would be 32 MB."""
    release, size, count = threading.Event(), 4 << 20, 8

    def refuse(_table: ServedTable, _payloads: Sequence[bytes]) -> list[EncodedChunk]:
        assert release.wait(30)
        raise CorruptDataError("chunk refused: it is none")

    def refused(client: ShardClient) -> bool:
        with pytest.raises(CorruptDataError):
            insert(client, 0, data=bytes(size))
        return True

    monkeypatch.setattr(ServedTable, "verify", refuse)
    with running_shards([table_config()]) as (_, addresses), CountingRelay(addresses[0]) as relay:
        clients = [ShardClient(relay.address, SPEC) for _ in range(count)]
        release.set()
        for client in 3 * clients:  # gRPC takes in more of a connection that has been busy, unless told not to
            assert refused(client)
        release.clear()
        before = relay.num_bytes
        with ThreadPoolExecutor(count) as threads:
            inserts = [threads.submit(refused, client) for client in clients]
            wait_until(lambda: relay.num_bytes - before > 2 * size)
            for _ in range(100):  # time enough for more to come, if it did
                clients[0].stats("online", timeout_seconds=5.0)
            assert relay.num_bytes - before < 2 * size + count * (5 << 18)
            release.set()
            assert all(future.result() for future in inserts)
        for client in clients:
            client.close()


def test_samples_wait_for_inserts_and_take_what_room_there_is() -> None:
    with running_shards([LIMITED]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)

        def admit(number: int, *, wait_seconds: float = 0.0) -> int:
            return client.admit("online", number, wait_seconds=wait_seconds, timeout_seconds=10.0)[0]

        insert(client, 0)  # free
        assert [admit(10), admit(10), admit(10)] == [10, 6, 0]  # one for each of 16 inserts that are not there yet
        assert admit(1, wait_seconds=0.05) == 0
        results = list[int]()
        waiting = threading.Thread(target=lambda: results.append(admit(10, wait_seconds=5.0)))
        waiting.start()
        assert insert(client, 1) == 1
        waiting.join(timeout=20)
        assert results == [8]
        with pytest.raises(ValueError, match="num_samples 0"):
            admit(0)
        client.close()
