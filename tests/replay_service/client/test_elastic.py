"""Shards join, drain, leave and are killed while writers and a learner work: nobody notices, and nothing is lost."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ReplayTimeout, SampleRequest
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from tests.helpers.chunk_factory import SPEC, VIEW, connected, guarded, make_data, table_config
from tests.helpers.shard_process import ShardProcess
from upcycle.experience.chunks import decode_chunk
from upcycle.experience.experience_log import ExperienceLogReader

pytestmark = pytest.mark.slow

# Each shard: at most four chunks or 96 samples away from 3 samples per insert; one chunk free, but for one that joins.
LIMITED = table_config(capacity_steps=16_000, samples_per_insert=3.0, error_buffer_steps=32, min_size_to_sample=8)
JOINING = replace(LIMITED, min_size_to_sample=0)
NUM_WRITERS, CHUNKS, BATCH_SIZE = 2, 250, 32
SECONDS = 50.0


class Load:
    """Writers, a learner and an observer of the accounts, each in a thread of its own."""

    def __init__(self, addresses: dict[int, str]) -> None:
        self.addresses, self.ended = addresses, threading.Event()
        self.failures, self.acknowledged = list[BaseException](), list[int]()
        self.num_batches = self.num_looks = 0
        self.num_ahead = Counter[int]()  # looks at a shard that found a surplus other than 0
        works = [lambda n=n: self._write(n) for n in range(NUM_WRITERS)]
        self._writers = [threading.Thread(target=guarded(work, self.failures)) for work in works]
        self._others = [threading.Thread(target=guarded(work, self.failures)) for work in (self._learn, self._observe)]

    def __enter__(self) -> "Load":
        for thread in (*self._others, *self._writers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._writers:
            thread.join()
        self.ended.set()
        for thread in self._others:
            thread.join()

    def wait_for_chunks(self, number: int) -> None:
        """Until so many chunks have been acknowledged, or somebody has failed."""
        deadline = time.monotonic() + SECONDS
        while len(self.acknowledged) < number and not self.failures:
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} chunks, and no more come"
            time.sleep(0.005)

    def _write(self, number: int) -> None:
        with connected(self.addresses, seed=number) as replay:
            for sequence in range(CHUNKS):
                chunk = number * CHUNKS + sequence
                replay.insert(
                    "online",
                    [make_data(chunk, priorities=np.full(SPEC.steps, 1.0 + number))],
                    writer_id=f"w{number}",
                    first_sequence=sequence,
                    timeout_seconds=SECONDS,
                )
                self.acknowledged.append(chunk)

    def _learn(self) -> None:
        rng = np.random.default_rng(7)
        with connected(self.addresses, seed=99) as replay:
            while not self.ended.is_set():
                with suppress(ReplayTimeout):  # nobody inserts; writers that wait for this one would fail
                    batch = replay.sample(
                        SampleRequest(
                            tables="online",
                            batch_size=BATCH_SIZE,
                            view=VIEW,
                            importance_sampling_exponent=0.4,
                            timeout_seconds=0.5,
                        )
                    )[0]
                    assert len(batch.probabilities) == BATCH_SIZE
                    assert bool((batch.probabilities > 0).all())
                    replay.update_priorities("online", batch.keys, rng.uniform(0.5, 2.0, BATCH_SIZE))
                    self.num_batches += 1

    def _observe(self) -> None:
        """Each answer is one moment of that shard; the bounds of all of them add up to that of their sum."""
        clients = dict[str, ShardClient]()
        while not self.ended.is_set():
            for index, address in list(self.addresses.items()):
                client = clients.setdefault(address, ShardClient(address, SPEC))
                with suppress(ShardUnavailable, ShardSlow):  # killed
                    flow = client.stats("online", timeout_seconds=5).flow
                    assert abs(flow.surplus) <= flow.error_buffer_steps, (index, flow)
                    assert flow.num_free_inserts <= (0 if index == 3 else SPEC.steps), (index, flow)
                    self.num_looks += 1
                    self.num_ahead[index] += flow.surplus != 0
            time.sleep(0.01)  # a core for the others
        for client in clients.values():
            client.close()


@pytest.fixture
def processes() -> Iterator[dict[int, ShardProcess]]:
    started = dict[int, ShardProcess]()
    yield started
    for process in started.values():
        process.end(signal.SIGKILL)


def logged(folder: Path, index: int) -> Counter[int]:
    """How often each chunk is in the log of a shard."""
    reader = ExperienceLogReader.open(folder / f"shard-{index}")
    chunks = (decode_chunk(data, SPEC) for data in reader.iterate())
    return Counter(int(chunk.columns["policy_version"][0]) for chunk in chunks)


def call(address: str, method: Callable[[ShardClient], TableStats]) -> TableStats:
    client = ShardClient(address, SPEC)
    try:
        return method(client)
    finally:
        client.close()


@pytest.mark.timeout(200)
def test_shards_come_and_go_under_load(tmp_path: Path, processes: dict[int, ShardProcess]) -> None:
    """0 stays, 1 drains and leaves, 2 is killed, 3 joins."""
    for index in range(3):
        processes[index] = ShardProcess(tmp_path, index, LIMITED)
    addresses = {index: process.address for index, process in processes.items()}
    with Load(addresses) as load:
        load.wait_for_chunks(60)
        processes[3] = ShardProcess(tmp_path, 3, JOINING)
        addresses[3] = processes[3].address
        load.wait_for_chunks(160)
        drained = call(addresses[1], lambda client: client.drain(timeout_seconds=10)["online"])
        load.wait_for_chunks(260)
        leaving = call(addresses[1], lambda client: client.stats("online", timeout_seconds=10))
        assert leaving.num_inserted == drained.num_inserted, "it has taken chunks after it began to drain"
        assert leaving.flow.num_sampled >= drained.flow.num_sampled
        del addresses[1]
        load.wait_for_chunks(360)
        assert processes[1].end(signal.SIGTERM) == 0
        processes[2].end(signal.SIGKILL)
    assert load.failures == []
    assert sorted(load.acknowledged) == list(range(NUM_WRITERS * CHUNKS))
    assert load.num_batches > 0
    assert {0, 1, 2, 3} <= set(load.num_ahead), "the observer has not looked at every account"

    logs = {index: logged(tmp_path, index) for index in range(4)}
    assert all(set(log.values()) == {1} for log in logs.values()), "a shard holds a chunk twice"
    everywhere = sum(logs.values(), Counter[int]())
    assert set(everywhere) == set(load.acknowledged)
    twice = [chunk for chunk, count in everywhere.items() if count > 1]
    # Only what the killed shard had stored and not acknowledged went to another one as well.
    assert all(chunk in logs[2] for chunk in twice)
    assert len(twice) <= NUM_WRITERS
    assert logs[3].total() > 0
    for index in (0, 3):
        stats = call(addresses[index], lambda client: client.stats("online", timeout_seconds=10))
        assert stats.num_chunks == logs[index].total()
    assert drained.num_inserted == logs[1].total() * SPEC.steps
