"""Tables filled from experience logs."""

import threading
from pathlib import Path

import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.server.log_sink import LogPart, read_part
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
    table_config,
)
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter


def test_seeding_is_shared_out_and_repeating_it_adds_nothing(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log:
        for number in range(9):
            log.append(make_data(number), SPEC.steps)
    with running_shards([table_config("teacher")], count=2) as (_, addresses), connected(addresses) as replay:
        assert replay.seed("teacher", tmp_path / "log") == 72
        assert replay.seed("teacher", tmp_path / "log") == 72
        stats = replay.stats("teacher")
        assert (stats.num_transitions, stats.num_seeded, stats.num_inserted) == (72, 72, 0)
        assert sorted(shard.num_transitions for shard in stats.shards.values()) == [32, 40]
        batch = replay.sample(
            SampleRequest(
                tables="teacher", batch_size=300, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        assert set(batch.policy_version.tolist()) == set(range(9))


def test_seeding_takes_the_newest_transitions(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log:
        for number in range(9):
            log.append(make_data(number), SPEC.steps)
    with running_shards([table_config()]) as (shards, addresses), connected(addresses) as replay:
        assert shards[0].seed("online", ExperienceLogReader.open(tmp_path / "log"), newest_transitions=24) == 24
        batch = replay.sample(
            SampleRequest(
                tables="online", batch_size=100, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        assert set(batch.policy_version.tolist()) == {6, 7, 8}


def test_stopping_gives_up_seeding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log:
        for number in range(40):
            log.append(make_data(number), SPEC.steps)
    begun, read_for_real = threading.Event(), ExperienceLogReader.read

    def read_slowly(reader: ExperienceLogReader, index: int) -> bytes:
        begun.set()
        threading.Event().wait(0.05)
        return read_for_real(reader, index)

    monkeypatch.setattr(ExperienceLogReader, "read", read_slowly)
    with running_shards([table_config("teacher")]) as (shards, addresses):
        client, outcomes = ShardClient(addresses[0], SPEC), list[BaseException]()

        def seed() -> None:
            try:
                client.seed(
                    "teacher",
                    tmp_path / "log",
                    shard_index=0,
                    num_shards=1,
                    newest_transitions=None,
                    timeout_seconds=30,
                )
            except ShardUnavailable as error:
                outcomes.append(error)

        seeding = threading.Thread(target=seed)
        seeding.start()
        assert begun.wait(20)
        shards[0].stop(grace_seconds=10.0)
        seeding.join(timeout=20)
        assert [type(error) for error in outcomes] == [ShardUnavailable]
        client.close()


def test_seeding_refuses_what_cannot_be_seeded(tmp_path: Path) -> None:
    other = ChunkSpec(frame_shape=(4, 2), frame_dtype="uint8", num_actions=4, steps=8, history=1, lookahead=2)
    with ExperienceLogWriter.open(tmp_path / "other", other, ENV) as log:
        log.append(encode_chunk(make_chunk(0, spec=other), other), SPEC.steps)
    with running_shards([table_config("teacher")]) as (_, addresses), connected(addresses) as replay:
        with pytest.raises(UserError, match=r"teacher's log.*frame size"):
            replay.seed("teacher", tmp_path / "other")
        with pytest.raises(UserError, match="no-such-log"):
            replay.seed("teacher", tmp_path / "no-such-log")
        assert replay.stats("teacher").num_transitions == 0


def test_a_part_of_a_log_comes_in_its_order_and_packed_if_that_is_asked_for(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV) as log:
        for number in range(100):
            log.append(make_data(number), SPEC.steps)
    reader = ExperienceLogReader.open(tmp_path / "log")
    for part in (LogPart(), LogPart(1, 3), LogPart(2, 3, newest_transitions=50 * SPEC.steps)):
        wanted = list(
            reader.iterate(
                shard_index=part.shard_index, num_shards=part.num_shards, newest_transitions=part.newest_transitions
            )
        )
        for packed in (False, True):
            found = [chunk for batch in read_part(reader, part, SPEC, packed=packed) for chunk in batch]
            assert [encode_chunk(chunk, SPEC) for chunk in found] == wanted
            assert all((chunk.packed is not None) == packed for chunk in found)
    begun = read_part(reader, LogPart(), SPEC, packed=False)
    next(begun)
    begun.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("log-part")]
