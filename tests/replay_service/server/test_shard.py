"""One shard over real gRPC: typed refusals, waits that end, logs that hold what was acknowledged."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.server.shard import ReplayShard
from replay_service.table.types import SampleRequest
from replay_service.wire.errors import ShardUnavailable
from tests.helpers.chunk_factory import (
    ENV,
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    sample_request,
    table_config,
)
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.runs.metrics import Metrics

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
                client.begin_sample(sample_request("online", batch_size), timeout_seconds=5)()
        columns = {name: np.array([99]) for name in ("slot", "offset", "generation")} | {"priority": np.array([1.0])}
        with pytest.raises(ValueError, match="outside the table"):
            client.update_priorities("online", columns, max_priority=0, timeout_seconds=5)
        columns["slot"] = np.array([99], np.int32)
        with pytest.raises(CorruptDataError, match="slot"):
            client.update_priorities("online", columns, max_priority=0, timeout_seconds=5)
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
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
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


def test_a_shard_says_what_its_log_took_before_it_began(tmp_path: Path) -> None:
    for before in (0, 3 * SPEC.steps):
        with (
            ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log,
            running_shards([table_config(), table_config("other")], logs={0: log}) as (_, addresses),
            connected(addresses) as replay,
        ):
            chunks = [make_data(number) for number in range(3)]
            replay.insert("online", chunks, writer_id="w", first_sequence=0, timeout_seconds=10)
            stats = replay.stats("online").shards[0]
            assert (stats.num_inserted_before, stats.num_inserted) == (before, 3 * SPEC.steps)
            assert replay.stats("other").shards[0].num_inserted_before is None  # only one table is logged
