"""The limiter under several learners and several actors at once, over several shards, on real gRPC."""

import threading
from collections.abc import Callable

import numpy as np

from replay_service.client import ShardClient
from replay_service.rate_limiter import Flow
from tests.replay_service.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config

NUM_SHARDS, NUM_SAMPLING, NUM_INSERTING = 3, 4, 4
BATCHES, BATCH_SIZE, CHUNKS = 29, 32, 40
# Each shard: one chunk free, then at most two chunks or 48 samples away from 3 samples per insert.
LIMITED = table_config(capacity_steps=4000, samples_per_insert=3.0, error_buffer_steps=16, min_size_to_sample=8)


def total(flows: list[Flow]) -> Flow:
    first, *others = flows
    return sum(others, first)


def test_several_learners_and_actors_stay_within_the_buffer_at_every_moment() -> None:
    with running_shards([LIMITED], count=NUM_SHARDS) as (_, addresses):
        failures, ended, delivered = list[BaseException](), threading.Event(), [0] * NUM_SAMPLING

        def insert(number: int) -> None:
            with connected(addresses, seed=number) as replay:
                for sequence in range(CHUNKS):
                    data = make_data(sequence, priorities=np.full(SPEC.steps, 1.0 + number))
                    replay.insert("online", [data], writer_id=f"w{number}", first_sequence=sequence, timeout_seconds=50)

        def sample(number: int) -> None:
            with connected(addresses, seed=100 + number) as replay:
                for _ in range(BATCHES):
                    batch = replay.sample(
                        "online", BATCH_SIZE, view=VIEW, importance_sampling_exponent=0.4, timeout_seconds=50
                    )
                    delivered[number] += len(batch.probabilities)

        def observe() -> None:
            clients = [ShardClient(address, SPEC) for address in addresses.values()]
            while not ended.is_set():
                for client in clients:  # each answer is one moment of that shard
                    flow = client.stats("online", timeout_seconds=10).flow
                    assert abs(flow.surplus) <= flow.error_buffer_steps, flow
            for client in clients:
                client.close()

        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    work()
                except BaseException as error:
                    failures.append(error)

            return run

        watcher = threading.Thread(target=guarded(observe))
        works = [(lambda n=n: insert(n)) for n in range(NUM_INSERTING)]
        works += [(lambda n=n: sample(n)) for n in range(NUM_SAMPLING)]
        workers = [threading.Thread(target=guarded(work)) for work in works]
        for thread in (watcher, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        ended.set()
        watcher.join()
        assert not failures
        with connected(addresses) as replay:
            flow = replay.stats("online").flow
        assert flow.num_inserted == NUM_INSERTING * CHUNKS * SPEC.steps
        assert flow.num_sampled == sum(delivered) == NUM_SAMPLING * BATCHES * BATCH_SIZE
