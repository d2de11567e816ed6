"""Several shards behind one client: exact probabilities, no loss, no deadlock."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import ReplayTimeout, SampleRequest
from tests.helpers.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config
from upcycle.errors import UserError
from upcycle.experience.chunks import MAX_PRIORITY, Array
from upcycle.runs.metrics import Metrics

BIG = table_config(capacity_steps=400)


def insert(replay: ShardedReplay, number: int, *, priorities: Array | None = None, table: str = "online") -> None:
    replay.insert(
        table, [make_data(number, priorities=priorities)], writer_id="w", first_sequence=number, timeout_seconds=10
    )


def fill_unequally(addresses: dict[int, str], all_priorities: list[Array]) -> None:
    """Chunk i into shard i modulo the number of shards, but the last shard gets the last chunks all alone."""
    for number, priorities in enumerate(all_priorities):
        index = number % len(addresses) if number < 6 else len(addresses) - 1
        with connected({index: addresses[index]}) as single:
            insert(single, number, priorities=priorities)


def count_until_timeout(call: Callable[[int], object]) -> int:
    """How many calls go through, numbered from 0, before the limiter holds one back."""
    for number in range(100):
        try:
            call(number)
        except ReplayTimeout:
            return number
    raise AssertionError("the limiter never held a call back")


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_four_unequal_shards_give_what_one_shard_gives(exponent: float) -> None:
    """Exact probabilities; and the weighted mean of a quantity that depends on the transition, within five errors."""
    rng = np.random.default_rng(3)
    # The shards' masses come to 12, 27, 15 and 132.
    scales = [0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 8.0, 8.0]
    all_priorities = [scale * rng.uniform(0.5, 1.5, SPEC.steps).astype(np.float32) for scale in scales]
    raw = np.concatenate(all_priorities).astype(np.float64)
    exact = raw / raw.sum()
    shard_of = np.repeat([number % 4 if number < 6 else 3 for number in range(8)], SPEC.steps)
    values = np.where(shard_of == 3, 1.0, -1.0) + np.linspace(-0.5, 0.5, len(raw))
    weights = (len(raw) * exact) ** -exponent
    # Not normalised by the batch's maximum, which is random: the ratio to any one transition's weight is exact.
    expected = float((exact * weights * values).sum())
    for num_shards in (1, 4):
        with running_shards([BIG], count=num_shards) as (_, addresses):
            fill_unequally(addresses, all_priorities)
            with connected(addresses, seed=num_shards) as replay:
                estimates = list[float]()
                for _ in range(60):
                    batch = replay.sample(
                        SampleRequest(
                            tables="online",
                            batch_size=64,
                            view=VIEW,
                            importance_sampling_exponent=exponent,
                            timeout_seconds=10,
                        )
                    )[0]
                    item = batch.policy_version * SPEC.steps + batch.keys.offset
                    assert batch.probabilities == pytest.approx(exact[item], rel=1e-6)
                    normalised = weights[item] / weights[item].max()
                    assert batch.importance_weights == pytest.approx(normalised, rel=1e-5)
                    estimates.append(float((weights[item] * values[item]).mean()))
            error = float(np.std(estimates) / np.sqrt(len(estimates)))
            assert abs(np.mean(estimates) - expected) < 5 * error
            # The power of this test: equal quotas for all shards would be 20 errors off, and five are let pass.
            if num_shards == 4:
                mass = np.array([raw[shard_of == k].sum() for k in range(4)])
                wrong = float((raw / mass[shard_of] / 4 * weights * values).sum())
                assert abs(wrong - expected) > 20 * error


def test_chunks_spread_over_the_shards_and_keys_find_their_way_back() -> None:
    with running_shards([BIG], count=3) as (_, addresses), connected(addresses) as replay:
        for number in range(12):
            insert(replay, number)
        assert [stats.num_chunks for stats in replay.stats("online").shards.values()] == [4, 4, 4]
        batch = replay.sample(
            SampleRequest(
                tables="online", batch_size=96, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        assert set(batch.keys.shard.tolist()) == {0, 1, 2}
        assert batch.windows.frames.shape == (96, 3, 2, 2)
        assert batch.windows.frames.flags.writeable  # the learner makes tensors of them without a copy
        np.testing.assert_array_equal(batch.windows.frames[:, 0, 0, 0], batch.policy_version)
        replay.update_priorities("online", batch.keys, np.full(96, 50.0))
        again = replay.sample(
            SampleRequest(
                tables="online", batch_size=400, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        rated = set(
            zip(*(column.tolist() for column in (batch.keys.shard, batch.keys.slot, batch.keys.offset)), strict=True)
        )
        drawn = list(
            zip(*(column.tolist() for column in (again.keys.shard, again.keys.slot, again.keys.offset)), strict=True)
        )
        high = np.array([key in rated for key in drawn])
        total = 50.0 * len(rated) + (96 - len(rated))
        assert again.probabilities == pytest.approx(np.where(high, 50.0, 1.0) / total)


def test_the_highest_priority_is_shared_by_all_shards() -> None:
    with running_shards([BIG], count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, 0, priorities=np.full(SPEC.steps, 40.0))
        insert(replay, 1, priorities=np.full(SPEC.steps, MAX_PRIORITY))  # goes to the other shard
        masses = [stats.mass for stats in replay.stats("online").shards.values()]
        assert masses == [320.0, 320.0]


def test_stale_updates_are_dropped_and_counted() -> None:
    with running_shards([table_config(capacity_steps=8)]) as (_, addresses), connected(addresses) as replay:
        insert(replay, 0)
        batch = replay.sample(
            SampleRequest(
                tables="online", batch_size=5, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        insert(replay, 1)
        replay.update_priorities("online", batch.keys, np.full(5, 9.0))
        stats = replay.stats("online")
        assert (stats.num_stale_updates, stats.mass, stats.max_priority) == (5, 8.0, 1.0)
        with pytest.raises(ValueError, match="finite"):
            replay.update_priorities("online", batch.keys, np.full(5, np.nan))


def test_updates_for_a_lost_shard_are_dropped_and_counted() -> None:
    metrics = Metrics("learner", "test")
    with running_shards([BIG]) as (_, addresses), connected(addresses, metrics=metrics) as replay:
        insert(replay, 0)
        batch = replay.sample(
            SampleRequest(
                tables="online", batch_size=5, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        elsewhere = replace(batch.keys, shard=np.full(5, 7))
        replay.update_priorities("online", elsewhere, np.full(5, 9.0))
        assert metrics.value("replay_dropped_updates_total") == 5
        assert replay.stats("online").num_dropped_updates == 5
        replay.update_priorities("online", batch.keys, np.full(5, 9.0))
        assert metrics.value("replay_dropped_updates_total") == 5


def test_sampling_waits_for_the_first_transitions_over_all_shards() -> None:
    config = table_config(min_size_to_sample=12)  # 24 over both shards
    with running_shards([config], count=2) as (_, addresses), connected(addresses) as replay:
        with pytest.raises(ReplayTimeout, match="0 of 24"):
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=0.05
                )
            )[0]
        for number in range(2):
            insert(replay, number)
        with pytest.raises(ReplayTimeout, match="16 of 24"):
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=0.05
                )
            )[0]
        sizes = list[int]()

        def sample() -> None:
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20
                )
            )[0]
            sizes.append(len(batch.probabilities))

        waiting = threading.Thread(target=sample)
        waiting.start()
        insert(replay, 2)
        waiting.join(timeout=30)
        assert sizes == [4]


def test_one_ratio_over_all_shards() -> None:
    config = table_config(capacity_steps=400, samples_per_insert=2.0, error_buffer_steps=16, min_size_to_sample=8)
    with running_shards([config], count=2) as (_, addresses), connected(addresses) as replay:
        inserted = count_until_timeout(
            lambda number: replay.insert(
                "online", [make_data(0)], writer_id="w", first_sequence=number, timeout_seconds=0.1
            )
        )
        assert inserted == 2 + 4  # per shard: one chunk free, two within the buffer
        sampled = 8 * count_until_timeout(
            lambda _: replay.sample(
                SampleRequest(
                    tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=0.1
                )
            )[0]
        )
        flow = replay.stats("online").flow
        assert sampled == flow.num_sampled == 128  # from 32 inserts ahead to 32 behind, at 2 samples each
        assert flow.surplus == -32
        replay.insert("online", [make_data(0)], writer_id="w", first_sequence=inserted, timeout_seconds=10)
        replay.sample(
            SampleRequest(
                tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]


def test_writer_and_reader_wait_for_each_other_and_never_for_ever() -> None:
    config = table_config(capacity_steps=160, samples_per_insert=4.0, error_buffer_steps=8, min_size_to_sample=8)
    with running_shards([config], count=2) as (_, addresses), connected(addresses) as replay:
        writer = threading.Thread(target=lambda: [insert(replay, number) for number in range(30)])
        writer.start()
        for _ in range(110):
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=30
                )
            )[0]
        writer.join(timeout=30)
        assert not writer.is_alive()
        flow = replay.stats("online").flow
        assert (flow.num_inserted, flow.num_sampled) == (240, 880)
        assert abs(flow.surplus) <= flow.error_buffer_steps


def test_a_batch_that_could_never_pass_the_limiter_is_refused() -> None:
    config = table_config(samples_per_insert=1.0, error_buffer_steps=8)
    with running_shards([config]) as (_, addresses), connected(addresses) as replay:
        insert(replay, 0)
        with pytest.raises(UserError, match="error_buffer_steps"):
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=9, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]


def test_repeated_inserts_are_stored_once() -> None:
    with running_shards([BIG]) as (_, addresses), connected(addresses) as replay:
        for _ in range(3):
            replay.insert("online", [make_data(1), make_data(2)], writer_id="w", first_sequence=5, timeout_seconds=10)
        stats = replay.stats("online")
        assert (stats.num_transitions, stats.num_duplicate_chunks) == (16, 4)


def test_large_inserts_and_samples_are_split() -> None:
    with running_shards([BIG]) as (_, addresses), connected(addresses) as replay:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("replay_service.client.inserter.MAX_BULK_BYTES", 1000)
            patch.setattr("replay_service.client.batch_drawer.MAX_BULK_BYTES", 1000)
            chunks = [make_data(number) for number in range(20)]
            replay.insert("online", chunks, writer_id="w", first_sequence=0, timeout_seconds=10)
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=400, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
        assert replay.stats("online").num_chunks == 20
        assert set(batch.policy_version.tolist()) == set(range(20))
        assert batch.probabilities == pytest.approx(np.full(400, 1 / 160))


def test_an_unknown_table_is_a_users_error_and_harms_nobody_else() -> None:
    with running_shards([BIG]) as (_, addresses), connected(addresses) as replay:
        with pytest.raises(UserError, match="no such table"):
            replay.sample(
                SampleRequest(
                    tables="offline", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=5
                )
            )[0]
        with pytest.raises(UserError, match="no such table"):
            replay.insert("offline", [make_data(0)], writer_id="w", first_sequence=0, timeout_seconds=5)
        insert(replay, 0)
        threading.Event().wait(0.7)  # long enough for the shards to be probed
        batch = replay.sample(
            SampleRequest(tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=5)
        )[0]
        assert len(batch.probabilities) == 4


def test_no_shard_at_all_is_a_timeout_that_says_so() -> None:
    with connected({}) as replay:
        with pytest.raises(ReplayTimeout, match="no replay shard answers"):
            replay.sample(
                SampleRequest(
                    tables="online", batch_size=4, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=0.05
                )
            )[0]
        with pytest.raises(ReplayTimeout, match="0 of 1 chunks"):
            replay.insert("online", [make_data(0)], writer_id="w", first_sequence=0, timeout_seconds=0.05)
        with pytest.raises(ReplayTimeout, match="no replay shard answers"):
            replay.stats("online")
