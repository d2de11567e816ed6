"""The limiter under several learners and several actors at once, over several shards, on real gRPC."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from replay_service.client.shard_client import ShardClient
from replay_service.server.shard import ReplayShard
from replay_service.table.rate_limiter import Flow
from replay_service.table.types import SampleRequest
from tests.helpers.chunk_factory import SPEC, VIEW, connected, guarded, make_data, running_shards, table_config

pytestmark = pytest.mark.slow

NUM_SHARDS, NUM_SAMPLING, NUM_INSERTING = 3, 4, 4
BATCH_SIZE, CHUNKS = 32, 40
# Each shard: one chunk free, then at most two chunks or 48 samples away from 3 samples per insert.
LIMITED = table_config(capacity_steps=4000, samples_per_insert=3.0, error_buffer_steps=16, min_size_to_sample=8)
JOINING = replace(LIMITED, min_size_to_sample=0)


def total(flows: list[Flow]) -> Flow:
    first, *others = flows
    return sum(others, first)


class Crowd:
    """Learners, actors, and an observer of the accounts.

    Attributes:
      num_inserted: chunks so far.
      num_delivered: transitions that learners have been given so far.
    """

    def __init__(self, addresses: dict[int, str], num_batches: int) -> None:
        self._addresses, self._num_batches = addresses, num_batches
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.failures, self.num_inserted, self.num_delivered = list[BaseException](), 0, 0

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Returns when everybody has done their work; `meanwhile` is run beside them."""
        watcher = threading.Thread(target=guarded(self._observe, self.failures))
        works = [(lambda n=n: self._insert(n)) for n in range(NUM_INSERTING)]
        works += [(lambda n=n: self._sample(n)) for n in range(NUM_SAMPLING)]
        workers = [threading.Thread(target=guarded(work, self.failures)) for work in works]
        for thread in (watcher, *workers):
            thread.start()
        try:
            meanwhile()
        finally:
            for thread in workers:
                thread.join()
            self._ended.set()
            watcher.join()
        assert not self.failures

    def wait_for(self, num_inserted: int) -> None:
        """Until so many chunks are in; whoever waits for ever fails by their own timeout."""
        while self.num_inserted < num_inserted and not self.failures:
            time.sleep(0.002)

    def _insert(self, number: int) -> None:
        with connected(self._addresses, seed=number) as replay:
            for sequence in range(CHUNKS):
                data = make_data(sequence, priorities=np.full(SPEC.steps, 1.0 + number))
                replay.insert("online", [data], writer_id=f"w{number}", first_sequence=sequence, timeout_seconds=50)
                with self._lock:
                    self.num_inserted += 1

    def _sample(self, number: int) -> None:
        with connected(self._addresses, seed=100 + number) as replay:
            for _ in range(self._num_batches):
                batch = replay.sample(
                    SampleRequest(
                        tables="online",
                        batch_size=BATCH_SIZE,
                        view=VIEW,
                        importance_sampling_exponent=0.4,
                        timeout_seconds=50,
                    )
                )[0]
                with self._lock:
                    self.num_delivered += len(batch.probabilities)

    def _observe(self) -> None:
        clients = dict[str, ShardClient]()
        while not self._ended.is_set():
            for address in list(self._addresses.values()):  # each answer is one moment of that shard
                client = clients.setdefault(address, ShardClient(address, SPEC))
                flow = client.stats("online", timeout_seconds=10).flow
                assert abs(flow.surplus) <= flow.error_buffer_steps, flow
        for client in clients.values():
            client.close()


def account(shard: ReplayShard) -> Flow:
    return shard.stats("online").flow


def test_several_learners_and_actors_stay_within_the_buffer_at_every_moment() -> None:
    with running_shards([LIMITED], count=NUM_SHARDS) as (shards, addresses):
        crowd = Crowd(addresses, num_batches=29)
        crowd.run()
        flow = total([account(shard) for shard in shards])
        assert flow.num_inserted == NUM_INSERTING * CHUNKS * SPEC.steps
        assert flow.num_sampled == crowd.num_delivered == NUM_SAMPLING * 29 * BATCH_SIZE


def test_they_do_while_a_shard_joins_and_another_one_drains_and_leaves() -> None:
    with (
        running_shards([LIMITED], count=NUM_SHARDS) as (shards, addresses),
        running_shards([JOINING]) as ((joining,), joining_addresses),
    ):
        crowd, drained = Crowd(addresses, num_batches=30), list[Flow]()

        def scale() -> None:
            crowd.wait_for(40)
            addresses[3] = joining_addresses[0]
            crowd.wait_for(70)
            shards[0].drain()
            drained.append(account(shards[0]))
            crowd.wait_for(100)
            del addresses[0]

        crowd.run(scale)
        flows = [account(shard) for shard in (*shards, joining)]
        assert flows[0].num_inserted == drained[0].num_inserted
        assert flows[0].surplus >= min(drained[0].surplus, 0.0)  # it has lent nothing more
        assert flows[3].num_free_inserts == 0
        assert flows[3].num_paced_inserts > 0
        assert sum(flow.num_inserted for flow in flows) == NUM_INSERTING * CHUNKS * SPEC.steps
        assert sum(flow.num_sampled for flow in flows) == crowd.num_delivered == NUM_SAMPLING * 30 * BATCH_SIZE
        live = total(flows[1:])
        assert abs(live.surplus) <= live.error_buffer_steps
