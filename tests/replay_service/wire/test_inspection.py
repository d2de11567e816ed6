"""Looking into a shard: exact numbers, and nothing moves."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.contents import QUANTILES, ages, histogram
from replay_service.table.table import Table
from replay_service.table.types import SampleRequest, TableConfig
from replay_service.wire.inspection_messages import TableInspection
from tests.helpers.chunk_factory import (
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from upcycle.errors import UpcycleError
from upcycle.experience.chunks import MAX_PRIORITY, Array
from upcycle.experience.windows import View

LIMITED = table_config(samples_per_insert=2.0, error_buffer_steps=64, min_size_to_sample=8)


def make_table(config: TableConfig | None = None) -> Table:
    return Table(config or table_config(), SPEC, rng=np.random.default_rng(0))


def only(replay: ShardedReplay, num_windows: int = 0, table: str = "online") -> TableInspection:
    answer = replay.inspect(table, num_windows, view=VIEW)[0]
    assert isinstance(answer, TableInspection)
    return answer


def sampled_keys(replay: ShardedReplay) -> list[int]:
    batch = replay.sample(
        SampleRequest(tables="online", batch_size=16, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10)
    )[0]
    return (batch.keys.slot * SPEC.steps + batch.keys.offset).tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(2.0**-60, 2.0**60), min_size=1, max_size=50))
def test_every_priority_lies_in_its_bin(values: list[float]) -> None:
    result = histogram(np.array(values))
    assert result.count.sum() == len(values)
    np.testing.assert_array_equal(result.lower[1:], 2 * result.lower[:-1])
    for lower, count in zip(result.lower.tolist(), result.count.tolist(), strict=True):
        assert sum(lower <= value < 2 * lower for value in values) == count


def test_the_last_bins_take_what_lies_beyond() -> None:
    result = histogram(np.array([1e-300, 1.0, 1e300]))
    assert (result.lower[0], result.lower[-1]) == (2.0**-64, 2.0**64)
    assert (result.count[0], result.count[64], result.count[-1]) == (1, 1, 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_ages_are_the_quantiles_of_a_plain_list(counts: list[int], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(counts))  # slot order is not age order
    times = np.where(order % 3 == 0, np.nan, order.astype(float))
    result = ages(np.array(counts), order + 1, times, now=100.0)
    slots: list[int] = np.argsort(order).tolist()
    oldest_first = [(counts[slot], float(times[slot])) for slot in slots]
    steps, seconds, newer = list[int](), list[float](), 0
    for count, stored in reversed(oldest_first):
        steps += [newer] * count
        seconds += [100.0 - stored] * (0 if np.isnan(stored) else count)
        newer += count
    if not steps:
        assert len(result.steps) == 0
        return

    def quantiles(values: Sequence[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered[max(int(np.ceil(q * len(ordered))) - 1, 0)] for q in QUANTILES]

    assert result.steps.tolist() == quantiles(steps)
    if seconds:
        assert result.seconds.tolist() == quantiles(seconds)
    else:
        assert bool(np.isnan(result.seconds).all())


def test_the_oldest_chunk_is_the_one_that_is_overwritten_next() -> None:
    table = make_table(table_config(capacity_steps=3 * SPEC.steps))
    assert np.isnan(table.oldest_seconds(5.0))
    table.seed(make_chunk(0))
    assert np.isnan(table.oldest_seconds(5.0))
    for number in range(1, 5):
        table.insert(make_chunk(number), writer_id="w", sequence=number, now=float(number))
        assert np.isnan(table.oldest_seconds(9.0)) == (number < 3)  # the seeded one is there still
    assert table.oldest_seconds(9.0) == 9.0 - 2.0


def test_contents_by_hand() -> None:
    table = make_table()
    table.insert(make_chunk(3, priorities=[1, 1, 2, 3, 0, 0.5, 4, 8]), writer_id="w", sequence=0, now=10.0)
    table.insert(make_chunk(9, priorities=np.full(8, 16.0)), writer_id="w", sequence=1, now=14.0)
    contents = table.inspect(0, VIEW, now=20.0, rng=np.random.default_rng(0))
    assert contents.priorities.lower.tolist() == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert contents.priorities.count.tolist() == [1, 2, 2, 1, 1, 8]
    assert contents.ages.steps.tolist() == [0, 0, 0, 8, 8]  # 8 young transitions, 7 old ones
    assert contents.ages.seconds.tolist() == [6.0, 6.0, 6.0, 10.0, 10.0]
    assert (contents.stalest_policy_version, contents.newest_policy_version) == (3, 9)
    row_bytes = 4 + 4 + 4 + 3 + 4 + 8  # frame, action, reward, three flags, priority, version
    assert contents.held_bytes == 2 * SPEC.rows * row_bytes
    assert contents.reserved_bytes >= 10 * SPEC.rows * row_bytes
    assert len(contents.shown.priority) == 0


def test_an_empty_table_says_so() -> None:
    contents = make_table().inspect(4, VIEW, now=0.0, rng=np.random.default_rng(0))
    assert len(contents.priorities.count) == len(contents.ages.steps) == len(contents.shown.priority) == 0
    assert contents.newest_policy_version is None


def test_windows_are_drawn_by_priority_and_valid_for_their_horizon() -> None:
    table = make_table()
    priorities = np.array([0, 0, 0, 1.0, 0, 0, 0, 3.0])
    table.insert(make_chunk(5, priorities=priorities), writer_id="w", sequence=0)
    shown = table.inspect(64, VIEW, now=0.0, rng=np.random.default_rng(1)).shown
    assert np.bincount(shown.priority.astype(int)).tolist() == [0, 16, 0, 48]  # exact: the draw is stratified
    assert bool((shown.windows.frames == 5).all())
    # The chunk's tail is cut: the last row has no window of two steps, and the table was made for one step.
    short = make_table()
    short.insert(make_chunk(5, rows=SPEC.history + SPEC.steps + 1), writer_id="w", sequence=0)
    before = short.stats()
    two_steps = View(n_step=2, stack=2, gamma=0.9)
    shown = short.inspect(64, two_steps, now=0.0, rng=np.random.default_rng(1)).shown
    assert len(shown.priority) == 64 - 8
    assert short.stats() == before
    with pytest.raises(ValueError, match="n_step 3"):
        short.inspect(4, View(n_step=3, stack=2), now=0.0, rng=np.random.default_rng(1))


def test_inspecting_moves_neither_the_account_nor_the_generator() -> None:
    def drawn(*, inspecting: bool) -> list[Array]:
        table, rng = make_table(LIMITED), np.random.default_rng(7)
        for number in range(4):
            table.insert(make_chunk(number), writer_id="w", sequence=number)
        items = list[Array]()
        for _ in range(5):
            if inspecting:
                before = table.stats()
                table.inspect(16, VIEW, now=0.0, rng=rng)
                assert table.stats() == before
                table.check_invariants()
            sample = table.sample(8, VIEW)
            items.append(sample.windows.frames.copy())
        return items

    np.testing.assert_array_equal(drawn(inspecting=True), drawn(inspecting=False))


def test_a_live_shard_over_grpc() -> None:
    tables = [LIMITED, table_config("teacher")]
    with running_shards(tables) as (_, addresses), connected(addresses) as replay:
        assert only(replay).contents.newest_policy_version is None
        for number in (4, 6):
            data = make_data(number, priorities=np.full(SPEC.steps, MAX_PRIORITY if number == 6 else 0.25))
            for _ in range(2):  # the second time it is a duplicate
                replay.insert("online", [data], writer_id="w", first_sequence=number, timeout_seconds=10)
        sampled_keys(replay)
        before = replay.stats("online")
        inspection = only(replay, 12)
        assert replay.stats("online").flow == before.flow
        assert inspection.tables == ("online", "teacher")
        assert inspection.stats.num_duplicate_chunks == 2
        contents = inspection.contents
        assert dict(zip(contents.priorities.lower, contents.priorities.count, strict=True)) == {0.25: 8, 0.5: 0, 1.0: 8}
        assert (contents.stalest_policy_version, contents.newest_policy_version) == (4, 6)
        assert contents.ages.steps.tolist() == [0, 0, 0, 8, 8]
        assert bool((contents.ages.seconds >= 0).all())
        shown = contents.shown
        np.testing.assert_array_equal(shown.windows.frames[:, 0, 0, 0], shown.policy_version)
        assert shown.windows.frames.shape == (12, 3, 2, 2)
        np.testing.assert_array_equal(shown.priority, np.where(shown.policy_version == 4, 0.25, 1.0))
        np.testing.assert_array_equal(shown.windows.n_step_return, np.minimum(shown.policy_version % 7, 1))
        with pytest.raises(ValueError, match="num_windows 65"):
            replay.inspect("online", 65, view=VIEW)


def test_a_shard_that_is_away_is_named_and_the_others_answer() -> None:
    with running_shards([table_config()], count=2) as (shards, addresses), connected(addresses) as replay:
        shards[1].stop(grace_seconds=0.1)
        answers = replay.inspect("online", 0, view=VIEW)
        assert isinstance(answers[0], TableInspection)
        assert isinstance(answers[1], UpcycleError)
        assert addresses[1] in str(answers[1])
