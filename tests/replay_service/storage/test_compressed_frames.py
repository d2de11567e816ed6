"""From actors' chunks over gRPC to a learner's batch, through every tier, the log and back."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.storage.arena import Arena
from replay_service.table.types import SampleRequest, TableConfig, Transport
from tests.helpers.chunk_factory import sample_request
from tests.replay_service.storage.test_packed_storage import SPEC, make_chunks
from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Chunk, Codec, decode_chunk, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics

VIEW = View(n_step=2, stack=4, stack_fill="zeros")
CAPACITY = 400


def tables(folder: Path) -> list[TableConfig]:
    online = TableConfig("online", CAPACITY)
    return [
        online,
        replace(online, name="warm", tier="warm"),
        replace(online, name="cold", tier="cold", cold_cache_bytes=1000),
        replace(online, name="disk", tier="cold", cold_folder=str(folder / "cold")),
    ]


@contextmanager
def running_shard(folder: Path, *, log: ExperienceLogWriter | None = None) -> Generator[tuple[ReplayShard, str]]:
    metrics = Metrics("replay", "test", 0)
    shard = ReplayShard(index=0, spec=SPEC, tables=tables(folder), log=log, metrics=metrics)
    try:
        yield shard, shard.start()
    finally:
        shard.stop(grace_seconds=0.5)


@contextmanager
def client_of(address: str, *, transport: Transport = "auto", packed: bool = True) -> Generator[ShardedReplay]:
    rng = np.random.default_rng(0)
    replay = ShardedReplay(lambda: {0: address}, SPEC, rng=rng, transport=transport, packed=packed)
    try:
        yield replay
    finally:
        replay.close()


def check_batch(replay: ShardedReplay, table: str, chunks: list[Chunk]) -> None:
    """Compares a batch with the windows that an arena of the same chunks gives."""
    arena = Arena(SPEC, CAPACITY // SPEC.steps)
    for slot, chunk in enumerate(chunks):
        arena.write(slot, chunk, generation=slot + 1)
    batch = replay.sample(
        SampleRequest(tables=table, batch_size=200, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20)
    )[0]
    expected = arena.gather(batch.keys.slot, batch.keys.offset, VIEW)
    for name in ("frames", "action", "n_step_return", "discount"):
        np.testing.assert_array_equal(getattr(batch.windows, name), getattr(expected, name), err_msg=f"{table} {name}")
    assert len(np.unique(batch.keys.slot)) > 5


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_every_tier_gives_a_learner_what_the_actors_sent(
    codec: Codec, packed: bool, transport: Transport, tmp_path: Path
) -> None:
    chunks = make_chunks([30, 9, 70, 40], ["truncated", "terminated", "terminated", "open"])
    data = [encode_chunk(chunk, SPEC, codec=codec) for chunk in chunks]
    with (
        running_shard(tmp_path) as (_, address),
        client_of(address, transport=transport, packed=packed) as replay,
    ):
        for table in ("online", "warm", "cold", "disk"):
            replay.insert(table, data, writer_id="w", first_sequence=0, timeout_seconds=20)
            check_batch(replay, table, chunks)
        assert replay.stats("warm").num_transitions == replay.stats("online").num_transitions > 0


def test_blocks_travel_only_where_asked_for_and_stored(tmp_path: Path) -> None:
    data = [encode_chunk(chunk, SPEC, codec="lz4") for chunk in make_chunks([40], ["open"])]
    with running_shard(tmp_path) as (_, address):
        client = ShardClient(address, SPEC)
        try:
            for table in ("warm", "cold", "online"):
                for sequence, chunk in enumerate(data):
                    client.insert(
                        table,
                        [chunk],
                        writer_id="w",
                        first_sequence=sequence,
                        max_priority=0,
                        timeout_seconds=20,
                    )
            for table, packed in (("warm", True), ("warm", False), ("cold", True), ("online", True)):
                begin = client.begin_sample(sample_request(table, 5, view=VIEW, packed=packed), timeout_seconds=20)
                columns, frames, _ = begin()
                assert (frames is not None) == (table != "online" and packed) == ("frames" not in columns)
        finally:
            client.close()


def test_a_damaged_chunk_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    good = encode_chunk(make_chunks([40], ["open"])[0], SPEC, codec="lz4")
    bad = bytearray(good)
    bad[-40] ^= 1
    with running_shard(tmp_path) as (_, address), client_of(address) as replay:
        with pytest.raises(CorruptDataError, match="checksum"):
            replay.insert("warm", [good, bytes(bad)], writer_id="w", first_sequence=0, timeout_seconds=20)
        assert replay.stats("warm").num_chunks == 0


def test_the_log_keeps_raw_frames_and_seeds_every_tier(tmp_path: Path) -> None:
    chunks = make_chunks([30, 9, 70, 40], ["truncated", "terminated", "terminated", "open"])
    data = [encode_chunk(chunk, SPEC, codec="lz4") for chunk in chunks]
    folder = tmp_path / "log"
    with (
        ExperienceLogWriter.open(folder, SPEC, EnvConfig()) as log,
        running_shard(tmp_path, log=log) as (_, address),
        client_of(address) as replay,
    ):
        replay.insert("online", data, writer_id="w", first_sequence=0, timeout_seconds=20)
    logged = list(ExperienceLogReader.open(folder).iterate())
    for chunk, record in zip(chunks, logged, strict=True):
        decoded = decode_chunk(record, SPEC)
        assert decoded.packed is None  # zstd sees the frames, and finds what they have in common
        np.testing.assert_array_equal(decoded.frame, chunk.frame)
    with running_shard(tmp_path) as (_, address), client_of(address) as replay:
        for table in ("online", "warm", "cold", "disk"):
            assert replay.seed(table, folder) == sum(chunk.num_transitions(SPEC) for chunk in chunks)
            check_batch(replay, table, chunks)
