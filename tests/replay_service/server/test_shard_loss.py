"""Shards die and come back elsewhere: nothing acknowledged is lost, and those that live carry on."""

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_service.__main__ import main
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.served_table import EncodedChunk, ServedTable
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ReplayTimeout, SampleRequest
from tests.helpers.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config
from tests.helpers.shard_process import ShardProcess
from upcycle.experience.experience_log import ExperienceLogReader

pytestmark = pytest.mark.slow

CONFIG = table_config(capacity_steps=4000)


@pytest.fixture
def processes() -> Iterator[list[ShardProcess]]:
    started = list[ShardProcess]()
    yield started
    for process in started:
        process.end(signal.SIGKILL)


def insert(replay: ShardedReplay, numbers: Sequence[int]) -> None:
    for number in numbers:
        replay.insert("online", [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=20)


def sampled_chunks(replay: ShardedReplay, batch_size: int) -> set[int]:
    batch = replay.sample(
        SampleRequest(
            tables="online", batch_size=batch_size, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20
        )
    )[0]
    assert batch.probabilities == pytest.approx(np.full(batch_size, batch.probabilities[0]))
    return set(batch.policy_version.tolist())


def wait_for(replay: ShardedReplay, num_shards: int) -> None:
    """Until so many shards answer; the test's own time limit ends this if they never do."""
    while len(replay.stats("online").shards) != num_shards:
        threading.Event().wait(0.05)


@pytest.mark.usefixtures("hang_ups")
def test_kill_9_loses_no_acknowledged_chunk(tmp_path: Path, processes: list[ShardProcess]) -> None:
    processes += [ShardProcess(tmp_path, index, CONFIG) for index in range(2)]
    addresses = {index: process.address for index, process in enumerate(processes)}
    with connected(addresses) as replay:
        insert(replay, range(40))
        assert sampled_chunks(replay, 640) == set(range(40))
        lost = processes[0]
        assert lost.end(signal.SIGKILL) == -signal.SIGKILL
        # The survivor takes everything, and gives what it has with probabilities that add up without the lost one.
        insert(replay, range(40, 50))
        held = replay.stats("online").shards[1].num_chunks
        survivors = sampled_chunks(replay, 8 * 8 * held)
        assert len(survivors) == held >= 20 + 10
        # Another port, the same log.
        processes.append(ShardProcess(tmp_path, 0, CONFIG))
        assert processes[-1].address != lost.address
        addresses[0] = processes[-1].address
        wait_for(replay, 2)
        assert replay.stats("online").num_transitions == 50 * SPEC.steps
        assert sampled_chunks(replay, 8 * 8 * 50) == set(range(50))
        insert(replay, range(50, 60))
        stats = replay.stats("online")
        assert (stats.num_chunks, stats.num_duplicate_chunks) == (60, 0)
        assert min(shard.num_inserted for shard in stats.shards.values()) > 0  # the restarted one takes its turn
    for process, number in zip(processes[1:], (signal.SIGTERM, signal.SIGHUP), strict=True):
        assert process.end(number) == 0
    logged = [list(ExperienceLogReader.open(tmp_path / f"shard-{index}").iterate()) for index in range(2)]
    assert sorted(logged[0] + logged[1]) == sorted(make_data(number) for number in range(60))


def test_sampling_goes_on_while_a_shard_dies_in_the_middle() -> None:
    with running_shards([CONFIG], count=3) as (shards, addresses), connected(addresses) as replay:
        insert(replay, range(30))
        for batch in range(30):
            if batch == 10:
                shards[1].stop(grace_seconds=0.0)
            sampled = replay.sample(
                SampleRequest(
                    tables="online", batch_size=48, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20
                )
            )[0]
            assert len(sampled.probabilities) == 48
            if batch > 10:
                assert 1 not in sampled.keys.shard
                assert list(replay._members.live()) == [0, 2]  # pyright: ignore[reportPrivateUsage]
                assert sampled.probabilities == pytest.approx(np.full(48, 1 / (20 * SPEC.steps)))


def test_keys_of_a_restarted_shard_are_stale_though_it_holds_the_same_chunks() -> None:
    announced = dict[int, str]()
    with connected(announced) as replay:
        with running_shards([CONFIG]) as (_, addresses):
            announced.update(addresses)
            insert(replay, [0])
            before = replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20
                )
            )[0]
        with running_shards([CONFIG]) as (_, addresses):
            announced.update(addresses)
            insert(replay, [0])
            replay.update_priorities("online", before.keys, np.full(4, 9.0))
            stats = replay.stats("online")
            assert (stats.num_stale_updates, stats.mass) == (4, 8.0)


def test_a_shard_that_joins_later_is_used() -> None:
    with running_shards([CONFIG], count=2) as (_, addresses):
        announced = {0: addresses[0]}
        with connected(announced) as replay:
            insert(replay, range(4))
            announced[1] = addresses[1]
            wait_for(replay, 2)
            insert(replay, range(4, 8))
            assert [shard.num_chunks for shard in replay.stats("online").shards.values()] == [6, 2]
            while sampled_chunks(replay, 512) != set(range(8)):
                threading.Event().wait(0.05)


def test_an_insert_that_timed_out_is_repeated_without_a_second_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard takes the chunk and does not answer; the repeated call must not put it anywhere else."""
    answer, insert_for_real = threading.Event(), ServedTable.insert

    def insert_and_hang(table: ServedTable, chunks: Sequence[EncodedChunk], **arguments: Any) -> tuple[int, TableStats]:
        stored = insert_for_real(table, chunks, **arguments)
        answer.wait(30)
        return stored

    monkeypatch.setattr(ServedTable, "insert", insert_and_hang)
    monkeypatch.setattr("replay_service.client.inserter.CALL_SECONDS", 0.3)
    with running_shards([CONFIG], count=2) as (_, addresses), connected(addresses) as replay:
        try:
            for _ in range(3):
                with pytest.raises(ReplayTimeout):
                    replay.insert("online", [make_data(7)], writer_id="w", first_sequence=7, timeout_seconds=0.0)
        finally:
            answer.set()
        replay.insert("online", [make_data(7)], writer_id="w", first_sequence=7, timeout_seconds=20)
        stats = replay.stats("online")
        assert stats.num_chunks == 1
        assert stats.num_duplicate_chunks >= 2  # one attempt never began: two others hung in the threads for inserts


def test_wrong_arguments_are_a_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("[1, 2]", encoding="utf-8")
    for arguments in ([], [str(tmp_path / "none.json")], [str(tmp_path / "bad.json")]):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
