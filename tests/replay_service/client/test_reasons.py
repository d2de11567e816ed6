"""What a client that gets nowhere says it waits for."""

import socket
from collections.abc import Callable

import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import ReplayTimeout, SampleRequest
from tests.helpers.chunk_factory import VIEW, connected, make_data, running_shards, table_config

LIMITED = table_config(capacity_steps=400, samples_per_insert=1.0, error_buffer_steps=16)


def insert(replay: ShardedReplay, first: int = 0, count: int = 1) -> None:
    chunks = [make_data(number) for number in range(count)]
    replay.insert("online", chunks, writer_id="w", first_sequence=first, timeout_seconds=0.3)


def sample(replay: ShardedReplay) -> None:
    replay.sample(
        SampleRequest(tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.0, timeout_seconds=0.3)
    )[0]


def stats(replay: ShardedReplay) -> None:
    replay.stats("online")


def refusal(call: Callable[[ShardedReplay], object], replay: ShardedReplay) -> ReplayTimeout:
    with pytest.raises(ReplayTimeout) as timeout:
        call(replay)
    return timeout.value


@pytest.mark.parametrize("call", [insert, sample, stats])
def test_without_shards_there_is_none_to_ask(call: Callable[[ShardedReplay], object]):
    with connected({}) as replay:
        found = refusal(call, replay)
    assert found.waits_for == "shards"
    assert "no replay shard answers (none is announced)" in str(found)


@pytest.mark.parametrize("call", [insert, sample])
def test_a_shard_out_of_reach_is_named_with_the_reason(call: Callable[[ShardedReplay], object]):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else gets it
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with connected({0: address}) as replay:
            found = refusal(call, replay)
            while f"(replay shard at {address}: " not in str(found):  # until it has been probed
                found = refusal(call, replay)
    assert found.waits_for == "shards"
    assert "refused" in str(found)


def test_a_limiter_says_which_side_waits():
    with running_shards([LIMITED]) as (_, addresses), connected(addresses) as replay:
        found = refusal(sample, replay)
        assert (found.waits_for, "0 of 1 transitions" in str(found)) == ("samples", True)
        found = refusal(lambda replay: insert(replay, count=8), replay)
        assert found.waits_for == "room"
        for _ in range(100):
            try:
                sample(replay)
            except ReplayTimeout as timeout:
                found = timeout
                break
        assert (found.waits_for, "waits for inserts" in str(found)) == ("samples", True)
