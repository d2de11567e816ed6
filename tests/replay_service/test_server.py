"""One shard over real gRPC: typed refusals, waits that end, logs that hold what was acknowledged."""

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.relay import CountingRelay
from replay_service.client import ShardClient
from replay_service.failures import ShardUnavailable
from replay_service.served_table import ServedTable
from replay_service.server import ReplayShard
from replay_service.shared_log import EncodedChunk
from tests.replay_service.chunk_factory import (
    ENV,
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from tests.replay_service.test_waiting import wait_until
from upcycle.chunks import ChunkSpec, encode_chunk
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.metrics import Metrics

LIMITED = table_config(samples_per_insert=1.0, error_buffer_steps=16, min_size_to_sample=8)


def insert(client: ShardClient, number: int, *, data: bytes | None = None, writer_id: str = "w") -> int:
    chunks = [make_data(number) if data is None else data]
    accepted, _ = client.insert(
        "online",
        chunks,
        writer_id=writer_id,
        first_sequence=number,
        max_priority=0.0,
        timeout_seconds=10.0,
    )
    return accepted


def reserve(client: ShardClient, num_chunks: int = 1, *, wait_seconds: float = 0.0, writer_id: str = "w") -> int:
    granted, _ = client.reserve(
        "online", num_chunks, writer_id=writer_id, wait_seconds=wait_seconds, waited_seconds=0.0, timeout_seconds=10.0
    )
    return granted


def test_port_taken_is_a_users_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shard = ReplayShard(
            index=0, spec=SPEC, tables=[table_config()], log=None, metrics=Metrics("replay", "t"), port=port
        )
        with pytest.raises(UserError, match=f"127.0.0.1:{port}.*port 0"):
            shard.start()
        shard.stop(grace_seconds=0.1)


def test_two_shards_never_share_a_port() -> None:
    with running_shards([table_config()]) as (_, addresses):
        port = int(addresses[0].rpartition(":")[2])
        second = ReplayShard(
            index=1, spec=SPEC, tables=[table_config()], log=None, metrics=Metrics("replay", "t"), port=port
        )
        with pytest.raises(UserError, match="port taken"):
            second.start()
        second.stop(grace_seconds=0.1)


def test_bad_chunks_are_refused_counted_and_nothing_of_their_call_is_stored() -> None:
    good = make_data(1)
    other = ChunkSpec(frame_shape=(4, 2), frame_dtype="uint8", num_actions=4, steps=8, history=1, lookahead=2)
    with running_shards([table_config()]) as (_, addresses), connected(addresses) as replay:
        for number, bad in enumerate([good[:-1], b"garbage", b"", encode_chunk(make_chunk(2, spec=other), other)]):
            with pytest.raises(CorruptDataError, match="chunk refused"):
                replay.insert("online", [good, bad], writer_id="w", first_sequence=0, timeout_seconds=10)
            stats = replay.stats("online")
            assert (stats.num_refused_chunks, stats.num_transitions) == (number + 1, 0)


def test_requests_that_make_no_sense_are_refused_with_their_reason() -> None:
    with running_shards([table_config()]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        with pytest.raises(UserError, match=r"no such table.*online"):
            client.stats("offline", timeout_seconds=5)
        with pytest.raises(ValueError, match="n_step 3"):
            client.stats("online", n_step=3, timeout_seconds=5)
        for batch_size in (0, -1, 10**7):
            with pytest.raises(ValueError, match="batch_size"):
                client.begin_sample("online", batch_size, view=VIEW, packed=False, max_priority=0, timeout_seconds=5)()
        columns = {name: np.array([99]) for name in ("slot", "offset", "generation")} | {"priority": np.array([1.0])}
        with pytest.raises(ValueError, match="outside the table"):
            client.update_priorities("online", columns, max_priority=0, timeout_seconds=5)
        columns["slot"] = np.array([99], np.int32)
        with pytest.raises(CorruptDataError, match="slot"):
            client.update_priorities("online", columns, max_priority=0, timeout_seconds=5)
        client.close()


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
            columns, _, _ = client.begin_sample(
                "online", 4, view=VIEW, packed=False, max_priority=0, timeout_seconds=5.0
            )()
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
            columns, _, _ = client.begin_sample(
                "online", 4, view=VIEW, packed=False, max_priority=0, timeout_seconds=5.0
            )()
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


def test_stop_ends_waits_and_refuses_new_calls() -> None:
    with running_shards([LIMITED]) as (shards, addresses):
        client = ShardClient(addresses[0], SPEC)
        client.check_health(timeout_seconds=5)
        for number in range(3):
            insert(client, number)
        outcomes = list[object]()

        def wait_long() -> None:
            try:
                outcomes.append(reserve(client, wait_seconds=5.0))
            except ShardUnavailable as error:
                outcomes.append(error)

        waiting = threading.Thread(target=wait_long)
        waiting.start()
        shards[0].stop(grace_seconds=10.0)
        waiting.join(timeout=20)
        assert outcomes == [0] or isinstance(outcomes[0], ShardUnavailable)
        with pytest.raises(ShardUnavailable):
            insert(client, 4)
        client.close()


def test_stats_waits_for_chunks() -> None:
    with running_shards([table_config()]) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        seen = list[int]()
        waiting = threading.Thread(
            target=lambda: seen.append(client.stats("online", wait_seconds=5.0, timeout_seconds=10).num_transitions)
        )
        waiting.start()
        insert(client, 0)
        waiting.join(timeout=20)
        assert seen == [8]
        client.close()


def test_what_is_acknowledged_is_in_the_log_once(tmp_path: Path) -> None:
    with (
        ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log,
        running_shards([table_config()], logs={0: log}) as (_, addresses),
    ):
        client = ShardClient(addresses[0], SPEC)
        for number in (0, 1, 1, 2, 0):
            assert insert(client, number) == 1
            # Acknowledged means readable by others at once, without any help of the writer.
            reader = ExperienceLogReader.open(tmp_path / "log")
            assert make_data(number) in list(reader.iterate())
        assert list(reader.iterate()) == [make_data(number) for number in range(3)]
        stats = client.stats("online", timeout_seconds=5)
        assert (stats.num_duplicate_chunks, stats.num_transitions) == (2, 24)
        client.close()


def test_only_the_table_online_is_logged(tmp_path: Path) -> None:
    tables = [table_config(), table_config("teacher")]
    with (
        ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log,
        running_shards(tables, logs={0: log}) as (_, addresses),
        connected(addresses) as replay,
    ):
        replay.insert("teacher", [make_data(1)], writer_id="w", first_sequence=0, timeout_seconds=10)
        assert replay.stats("teacher").num_transitions == 8
        assert log.num_chunks == 0


def test_a_full_disk_reaches_the_writer_as_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log,
        running_shards([table_config()], logs={0: log}) as (_, addresses),
    ):
        client = ShardClient(addresses[0], SPEC)

        def no_space(*_: object) -> int:
            raise UserError("disk", str(tmp_path), "is full", "free some space")

        monkeypatch.setattr(log, "append", no_space)
        with pytest.raises(UserError, match="is full; free some space"):
            insert(client, 0)
        assert client.stats("online", timeout_seconds=5).num_transitions == 0
        monkeypatch.undo()
        assert insert(client, 0) == 1  # the refused insert left no trace
        client.close()


def test_metrics_of_a_shard(tmp_path: Path) -> None:
    metrics = Metrics("replay", "test")
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log:
        shard = ReplayShard(index=0, spec=SPEC, tables=[LIMITED, table_config("teacher")], log=log, metrics=metrics)
        with connected({0: shard.start()}) as replay:
            replay.insert("online", [make_data(n) for n in (0, 1)], writer_id="w", first_sequence=0, timeout_seconds=10)
            replay.insert("online", [make_data(1)], writer_id="w", first_sequence=1, timeout_seconds=10)
            replay.insert("teacher", [make_data(2)], writer_id="w", first_sequence=2, timeout_seconds=10)
            batch = replay.sample("online", 4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10)
            stale = replace(batch.keys, generation=batch.keys.generation + 99)
            replay.update_priorities("online", stale, np.ones(4))
            with pytest.raises(CorruptDataError):
                replay.insert("online", [b"?"], writer_id="w", first_sequence=9, timeout_seconds=10)
        shard.stop()
        expected = {
            "replay_inserts_total": 16,
            "replay_size": 24,
            "replay_samples_total": 4,
            "replay_samples_per_insert": 0.5,  # of the 8 transitions that samples are owed for
            "replay_stale_updates_total": 4,
            "replay_refused_chunks_total": 1,
            "replay_duplicate_inserts_total": 1,
            "replay_log_bytes_total": log.num_bytes,
        }
        assert {name: metrics.value(name) for name in expected} == expected
