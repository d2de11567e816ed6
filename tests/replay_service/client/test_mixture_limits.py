"""Mixtures under the limiters of their tables, and while a shard dies."""

import numpy as np
import pytest

from replay_service.table.types import ReplayTimeout, TableConfig
from tests.helpers.chunk_factory import SPEC, connected, running_shards, table_config
from tests.replay_service.client.test_mixture import LIMITS, ONLINE_TABLE, TEACHER, TEACHER_TABLE, insert, mix, table_of
from upcycle.errors import UserError


def limited(name: str) -> TableConfig:
    return table_config(name, capacity_steps=800, **LIMITS)


def test_each_tables_own_limiter_holds_the_mixture_back() -> None:
    with (
        running_shards([limited("online"), limited("replayed"), TEACHER_TABLE], count=2) as (_, addresses),
        connected(addresses) as replay,
    ):
        for name in ("online", "replayed", "teacher"):
            insert(replay, name, range(4))  # 16 free over both shards, 16 paced
        shares = {"online": 0.25, "replayed": 0.125, "teacher": 0.625}
        for num_drawn in range(1, 13):  # 16 paced inserts and 32 of error buffer, 4 samples a batch
            mix(replay, shares, 16, timeout_seconds=5)
            flows = {name: replay.stats(name).flow for name in ("online", "replayed", "teacher")}
            assert [flow.num_sampled for flow in flows.values()] == [4 * num_drawn, 2 * num_drawn, 10 * num_drawn]
        # What the other tables have admitted is kept for the next call; nobody is charged twice.
        for _ in range(3):
            with pytest.raises(ReplayTimeout, match="'online'"):
                mix(replay, shares, 16, timeout_seconds=0.1)
        assert replay.stats("replayed").flow.num_sampled == 2 * 13
        insert(replay, "online", range(4, 5))
        mix(replay, shares, 16)
        assert replay.stats("online").flow.num_sampled == 4 * 13
        assert replay.stats("replayed").flow.num_sampled == 2 * 13
        for name in ("online", "replayed"):
            flow = replay.stats(name).flow
            assert abs(flow.surplus) <= flow.error_buffer_steps


def test_a_mixture_that_could_never_pass_a_limiter_is_refused() -> None:
    with running_shards([limited("online"), TEACHER_TABLE]) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(2))
        insert(replay, "teacher", range(2))
        with pytest.raises(UserError, match="error_buffer_steps"):
            mix(replay, {"online": 0.5, "teacher": 0.5}, 34)
        mix(replay, {"online": 0.5, "teacher": 0.5}, 32)


def test_a_call_that_timed_out_hands_its_counts_on() -> None:
    """Else a limiter would choose: 1 or 2 of three rows are of `free`, and a repeated call must not draw lots again."""
    names = [f"late_{number}" for number in range(10)]
    tables = [table_config(name, **LIMITS) for name in ("free", *names)]
    with running_shards(tables) as (_, addresses), connected(addresses) as replay:
        insert(replay, "free", range(3))
        counts, before = list[int](), 0
        for name in names:
            with pytest.raises(ReplayTimeout):
                mix(replay, {"free": 0.5, name: 0.5}, 3, timeout_seconds=0.05)
            admitted = replay.stats("free").flow.num_sampled - before
            insert(replay, name, range(2))
            (batch,) = mix(replay, {"free": 0.5, name: 0.5}, 3)
            counts.append(int(np.count_nonzero(table_of(batch) == 0)))
            assert counts[-1] == admitted
            before += admitted
            assert replay.stats("free").flow.num_sampled == before
        assert set(counts) == {1, 2}


def test_a_mixture_goes_on_while_a_shard_dies() -> None:
    with (
        running_shards([ONLINE_TABLE, TEACHER_TABLE], count=3) as (shards, addresses),
        connected(addresses) as replay,
    ):
        insert(replay, "online", range(9))
        insert(replay, "teacher", range(TEACHER, TEACHER + 9))
        for number in range(8):
            if number == 3:
                shards[1].stop(grace_seconds=0.0)
            for batch in mix(replay, {"online": 0.5, "teacher": 0.5}, 12, 2):
                assert np.bincount(table_of(batch)).tolist() == [6, 6]
                assert (batch.windows.frames == batch.policy_version[:, None, None, None]).all()
                if number > 3:
                    assert 1 not in batch.keys.shard
                    np.testing.assert_allclose(batch.probabilities, 0.5 / (6 * SPEC.steps))
