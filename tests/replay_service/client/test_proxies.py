"""Proxy variables of the environment, which are for the way out, and no way to a shard."""

import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import SampleRequest
from tests.helpers.chunk_factory import VIEW, connected, make_data, running_shards, table_config

NOBODY = "http://127.0.0.1:9"


def draw(replay: ShardedReplay) -> int:
    batch = replay.sample(
        SampleRequest(tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.0, timeout_seconds=20)
    )[0]
    return len(batch.probabilities)


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_is_not_asked_the_way_to_a_shard(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, NOBODY)
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, "localhost")  # as it often is: a shard's address is none of these
    with running_shards([table_config()], count=2) as (_, addresses):
        for transport in ("auto", "unix", "tcp"):
            with connected(addresses, transport=transport) as replay:
                replay.insert("online", [make_data(1)], writer_id=transport, first_sequence=0, timeout_seconds=20)
                assert draw(replay) == 4
