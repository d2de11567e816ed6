"""Draws with a seed: a function of it and of what is stored, whoever asks, however, and after whatever restarts."""

import signal
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import SampledBatch, SampleRequest, TableConfig, Tier, Transport
from tests.helpers.chunk_factory import (
    ENV,
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from tests.helpers.shard_process import ShardProcess
from upcycle.experience.chunks import Array, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.windows import View

pytestmark = pytest.mark.slow

TEACHER = table_config("teacher", sampler="uniform", capacity_steps=400)
ONLINE = table_config("online", capacity_steps=400, priority_exponent=0.6)
NUM_CHUNKS = 11  # of three shards two get four, the last one three, and of the last chunk there are five rows only
LONG = View(n_step=2, stack=2, gamma=0.9)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeded") / "log"
    with ExperienceLogWriter.open(path, SPEC, ENV) as writer:
        for number in range(NUM_CHUNKS):
            rows = 6 if number == NUM_CHUNKS - 1 else None
            chunk = make_chunk(number, rows=rows, priorities=np.linspace(0.1, 1.0 + number, SPEC.steps))
            writer.append(encode_chunk(chunk, SPEC), chunk.num_transitions(SPEC))
    return path


@contextmanager
def seeded(
    log: Path, tables: Sequence[TableConfig], *, count: int = 3, seed: int | None = None
) -> Generator[dict[int, str]]:
    """New shards whose tables all hold the log, each its part."""
    with running_shards(tables, count=count, seed=seed) as (shards, addresses):
        for index, shard in enumerate(shards):
            for table in tables:
                shard.seed(table.name, ExperienceLogReader.open(log), index, count)
        yield addresses


def draw(
    replay: ShardedReplay, draw_seeds: Iterable[int], *, table: str = "teacher", size: int = 12, view: View = VIEW
) -> list[SampledBatch]:
    """Two batches of each seed."""
    return [
        batch
        for draw_seed in draw_seeds
        for batch in replay.sample(
            SampleRequest(
                tables=table,
                batch_size=size,
                num_batches=2,
                view=view,
                importance_sampling_exponent=0.5,
                timeout_seconds=10,
                draw_seed=draw_seed,
            )
        )
    ]


def assert_equal(some: Sequence[SampledBatch], others: Sequence[SampledBatch]) -> None:
    """The same transitions in the same order, bit by bit; only generations tell the incarnations apart."""
    assert len(some) == len(others)
    for mine, theirs in zip(some, others, strict=True):
        for name in ("shard", "slot", "offset"):
            np.testing.assert_array_equal(getattr(mine.keys, name), getattr(theirs.keys, name))
        for name in ("frames", "action", "n_step_return", "discount"):
            np.testing.assert_array_equal(getattr(mine.windows, name), getattr(theirs.windows, name))
        np.testing.assert_array_equal(mine.policy_version, theirs.policy_version)
        np.testing.assert_array_equal(mine.probabilities, theirs.probabilities)
        np.testing.assert_array_equal(mine.importance_weights, theirs.importance_weights)
        assert mine.largest_weight == theirs.largest_weight


@pytest.mark.parametrize("config", [TEACHER, table_config("teacher", capacity_steps=400, stratified=False)])
def test_a_new_client_of_restarted_shards_draws_the_same_and_goes_on_anywhere(log: Path, config: TableConfig) -> None:
    with seeded(log, [config], seed=1) as addresses:
        with connected(addresses, seed=1) as replay:
            expected = draw(replay, range(12))
            assert_equal(draw(replay, range(12)), expected)
        with connected(addresses, seed=2) as replay:
            replay.sample(
                SampleRequest(
                    tables="teacher", batch_size=7, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
            assert_equal(draw(replay, range(12)), expected)
    with seeded(log, [config], seed=3) as addresses, connected(addresses, seed=4) as replay:
        assert_equal(draw(replay, range(8, 12)), expected[16:])
    assert len({tuple(items_of(batch)) for batch in expected}) == 24  # another seed is another draw


@pytest.mark.parametrize("transport", get_args(Transport))
@pytest.mark.parametrize("tier", get_args(Tier))
def test_neither_tier_nor_transport_changes_a_draw(
    log: Path, tier: Tier, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So small that a draw takes several requests where windows are sent as they are.
    monkeypatch.setattr("replay_service.client.batch_drawer.MAX_BULK_BYTES", 500)
    with seeded(log, [TEACHER]) as addresses, connected(addresses) as replay:
        expected = draw(replay, range(4), size=30)
    changed = table_config("teacher", sampler="uniform", capacity_steps=400, tier=tier)
    with seeded(log, [changed]) as addresses, connected(addresses, seed=9, transport=transport) as replay:
        assert_equal(draw(replay, range(4), size=30), expected)


def test_a_seed_moves_no_other_draw(log: Path) -> None:
    def others(*, seeds: Sequence[int]) -> list[SampledBatch]:
        with seeded(log, [TEACHER], seed=5) as addresses, connected(addresses, seed=6) as replay:
            batches = list[SampledBatch]()
            for seed in seeds:
                batches.append(
                    replay.sample(
                        SampleRequest(
                            tables="teacher",
                            batch_size=20,
                            view=VIEW,
                            importance_sampling_exponent=0.5,
                            timeout_seconds=10,
                        )
                    )[0]
                )
                with connected(addresses, seed=7) as learner:
                    draw(learner, [seed])
                draw(replay, [seed])
            return batches

    assert_equal(others(seeds=(1, 2, 3)), others(seeds=(4, 5, 6)))


def test_what_was_asked_before_with_another_horizon_does_not_matter(log: Path) -> None:
    """Masses are of a horizon: a split by those of another one would be another draw, with wrong probabilities."""
    with seeded(log, [TEACHER]) as addresses, connected(addresses) as replay:
        expected = draw(replay, range(3), view=LONG)
    with seeded(log, [TEACHER]) as addresses, connected(addresses) as replay:
        assert replay.stats("teacher").num_drawable == NUM_CHUNKS * SPEC.steps - 4  # of the horizon of one step
        assert_equal(draw(replay, range(3), view=LONG), expected)
        draw(replay, [0], view=VIEW)
        assert_equal(draw(replay, range(3), view=LONG), expected)


def items_of(batch: SampledBatch) -> list[int]:
    return (batch.policy_version * SPEC.steps + batch.keys.offset).tolist()


def test_rows_of_a_mixture_are_the_same_while_another_table_fills(log: Path) -> None:
    def mix(replay: ShardedReplay, draw_seed: int) -> list[SampledBatch]:
        return replay.sample(
            SampleRequest(
                tables={"online": 0.7, "teacher": 0.3},
                batch_size=16,
                num_batches=3,
                view=VIEW,
                importance_sampling_exponent=0.5,
                timeout_seconds=10,
                draw_seed=draw_seed,
            )
        )

    with seeded(log, [ONLINE, TEACHER]) as addresses, connected(addresses) as replay:
        first = [batch for draw_seed in range(17) for batch in mix(replay, draw_seed)]
        again = [batch for draw_seed in range(17) for batch in mix(replay, draw_seed)]
        assert_equal(first, again)
        for number in range(5):
            replay.insert("online", [make_data(50 + number)], writer_id="w", first_sequence=number, timeout_seconds=10)
        later = [batch for draw_seed in range(17) for batch in mix(replay, draw_seed)]
    sizes = set[int]()
    for before, after in zip(first, later, strict=True):
        assert before.keys.table is not None
        assert after.keys.table is not None
        np.testing.assert_array_equal(before.keys.table, after.keys.table)
        mine = before.keys.table == 1
        sizes.add(int(np.count_nonzero(mine)))
        np.testing.assert_array_equal(before.keys.offset[mine], after.keys.offset[mine])
        np.testing.assert_array_equal(before.policy_version[mine], after.policy_version[mine])
    assert sizes == {4, 5}
    assert max(int(batch.policy_version.max()) for batch in later) >= 50


def test_the_batch_comes_without_a_shard_that_is_lost(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay_service.client.membership._RETURN_SECONDS", 0.5)
    with running_shards([TEACHER], count=3) as (shards, addresses), connected(addresses) as replay:
        for index, shard in enumerate(shards):
            shard.seed("teacher", ExperienceLogReader.open(log), index, 3)
        expected = draw(replay, range(4))
        shards[1].stop(grace_seconds=0.1)
        for batch in draw(replay, range(4, 8)):
            assert set(batch.keys.shard.tolist()) == {0, 2}
    with seeded(log, [TEACHER]) as addresses, connected(addresses) as replay:
        assert_equal(draw(replay, range(4)), expected)  # once it is back, batches are what they were


def test_a_shard_killed_with_signal_9_gives_the_same_draws_from_its_log(tmp_path: Path) -> None:
    config = table_config("online", capacity_steps=400)
    with running_shards([config]) as (_, addresses), connected(addresses) as replay:
        killed = ShardProcess(tmp_path, 1, config)
        addresses[1] = killed.address
        try:
            wait_for_both(replay)
            for number in range(7):
                replay.insert("online", [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)
            expected = draw(replay, range(10), table="online")
            assert {1, 0} == set(np.concatenate([batch.keys.shard for batch in expected]).tolist())
            killed.end(signal.SIGKILL)
            killed = ShardProcess(tmp_path, 1, config)
            addresses[1] = killed.address
            wait_for_both(replay)
            assert_equal(draw(replay, range(10), table="online"), expected)
        finally:
            killed.end(signal.SIGKILL)


def wait_for_both(replay: ShardedReplay) -> None:
    while len(replay.stats("online").shards) < 2:
        threading.Event().wait(0.02)  # the test's own time limit ends this if it never comes


def test_a_moments_silence_changes_no_draw(log: Path) -> None:
    with seeded(log, [TEACHER]) as addresses, connected(addresses) as replay:
        expected = draw(replay, range(4))
        members = replay._members  # pyright: ignore[reportPrivateUsage]
        for draw_seed in range(4):
            members.lost(1, members.live()[1])  # as a probe does that took too long to be answered
            assert_equal(draw(replay, [draw_seed]), expected[2 * draw_seed : 2 * draw_seed + 2])


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("exponent", [0.0, 0.6])
def test_seeds_draw_with_the_right_probabilities(log: Path, exponent: float, stratified: bool) -> None:
    from scipy import stats

    """Chi-square over all transitions, one draw of each batch, so that draws are independent; alpha 1e-4."""
    config = table_config("teacher", capacity_steps=400, priority_exponent=exponent, stratified=stratified)
    priorities = np.array([np.linspace(0.1, 1.0 + number, SPEC.steps) for number in range(NUM_CHUNKS)])
    weights = priorities.astype(np.float32).astype(np.float64) ** exponent
    weights[-1, 4:] = 0.0  # its last rows have no successor
    counts, rng = np.zeros(weights.shape), np.random.default_rng(0)
    with seeded(log, [config]) as addresses, connected(addresses) as replay:
        for draw_seed in range(60):
            for batch in replay.sample(
                SampleRequest(
                    tables="teacher",
                    batch_size=8,
                    num_batches=60,
                    view=VIEW,
                    importance_sampling_exponent=0.5,
                    timeout_seconds=10,
                    draw_seed=draw_seed,
                )
            ):
                row = rng.integers(8)  # rows stand in the order of the shards
                counts[batch.policy_version[row], batch.keys.offset[row]] += 1
    possible = weights > 0
    assert not counts[~possible].any()
    expected = weights[possible] / weights.sum() * counts.sum()
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-4


def test_weights_of_two_halves_are_those_of_the_whole(log: Path) -> None:
    """What ranks do that drew apart: normalise over the batch that they are parts of."""
    with seeded(log, [ONLINE]) as addresses, connected(addresses) as replay:
        halves = draw(replay, [3], table="online", size=6)
    num_items = NUM_CHUNKS * SPEC.steps - 4
    unnormalised: list[Array] = [(num_items * half.probabilities) ** -0.5 for half in halves]
    largest = max(half.largest_weight for half in halves)
    assert [half.largest_weight for half in halves] == [weights.max() for weights in unnormalised]
    assert halves[0].largest_weight != halves[1].largest_weight
    for half, weights in zip(halves, unnormalised, strict=True):
        whole = weights / max(other.max() for other in unnormalised)
        np.testing.assert_allclose(half.importance_weights * half.largest_weight / largest, whole, rtol=1e-6)
