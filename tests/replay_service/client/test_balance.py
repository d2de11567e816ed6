"""Real shards behind real clients: none of them gets more than its part, whichever side is the slower one."""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.types import ReplayTimeout, SampleRequest, TableConfig
from replay_service.wire.inspection_messages import TableInspection
from tests.helpers.chunk_factory import SPEC, VIEW, connected, guarded, make_data, running_shards, table_config
from upcycle.runs.metrics import Metrics

pytestmark = pytest.mark.slow

NUM_WRITERS, BATCH_SIZE = 3, 64
# One batch pays for exactly one chunk, so the shard it is booked at can accept one immediately. The table is large
# enough that a descheduled writer, which holds an old number, hardly changes the age of the oldest chunk.
LIMITED = table_config(
    capacity_steps=32 * SPEC.steps, samples_per_insert=8.0, error_buffer_steps=4 * SPEC.steps, min_size_to_sample=8
)


@contextmanager
def writers(addresses: Mapping[int, str]) -> Generator[list[BaseException]]:
    """Writers that are never short of chunks, whose numbers count up; yields their failures."""
    ended, failures, numbers = threading.Event(), list[BaseException](), count()

    def write(writer: int) -> None:
        with connected(addresses, seed=writer) as replay:
            for sequence in count():
                data = make_data(next(numbers))
                while True:
                    try:
                        replay.insert(
                            "online", [data], writer_id=f"w{writer}", first_sequence=sequence, timeout_seconds=0.5
                        )
                        break
                    except ReplayTimeout:
                        if ended.is_set():
                            return

    threads = [threading.Thread(target=guarded(lambda n=n: write(n), failures)) for n in range(NUM_WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []


def draw(replay: ShardedReplay, num_batches: int) -> None:
    for _ in range(num_batches):
        replay.sample(
            SampleRequest(
                tables="online", batch_size=BATCH_SIZE, view=VIEW, importance_sampling_exponent=0.4, timeout_seconds=50
            )
        )[0]


def spread(values: list[int]) -> float:
    return (max(values) - min(values)) / float(np.mean(values))


def ages(replay: ShardedReplay) -> list[int]:
    """How many chunks have come since the oldest of each shard, over all shards."""
    contents = [a.contents for a in replay.inspect("online", 0, view=VIEW).values() if isinstance(a, TableInspection)]
    newest = max(part.newest_policy_version or 0 for part in contents)
    return [newest - (part.stalest_policy_version or 0) for part in contents]


@pytest.mark.parametrize("num_shards", [2, 4, 8])
def test_all_shards_take_alike_where_inserts_wait_for_samples(num_shards: int) -> None:
    with (
        running_shards([LIMITED], count=num_shards) as (_, addresses),
        connected(addresses, seed=7) as replay,
        writers(addresses),
    ):
        draw(replay, 45 * num_shards)
        shards = replay.stats("online").shards.values()
        assert spread([stats.num_inserted for stats in shards]) < 0.1
        assert spread([stats.num_sampled for stats in shards]) < 0.1
        assert spread(ages(replay)) < 0.2


def start(index: int, table: TableConfig) -> tuple[ReplayShard, str]:
    shard = ReplayShard(index=index, spec=SPEC, tables=[table], log=None, metrics=Metrics("replay", "test", index))
    return shard, shard.start()


def test_a_shard_that_died_catches_up_before_the_others_are_full() -> None:
    large = replace(LIMITED, capacity_steps=250 * SPEC.steps)
    with (
        running_shards([large], count=3) as (shards, addresses),
        connected(addresses, seed=7) as replay,
        writers(addresses),
    ):
        draw(replay, 150)
        shards[1].stop(grace_seconds=0)
        draw(replay, 20)
        returned, addresses[1] = start(1, large)
        try:
            sizes = {0: 1}
            while len(sizes) < 3 or spread(list(sizes.values())) > 0.12:
                draw(replay, 20)
                sizes = {index: stats.num_chunks for index, stats in replay.stats("online").shards.items()}
                assert max(sizes.values()) < 250, sizes
        finally:
            returned.stop(grace_seconds=0)
