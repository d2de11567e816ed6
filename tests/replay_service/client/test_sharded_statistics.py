"""K shards of unequal mass and size draw as one table would: exactly in what they report, statistically in what comes.

The statistical test. A linear model's gradient of the weighted squared error over a batch has D = 4 components; its
exact expectation follows from the priorities alone. Over n = 150 batches of 128 draws (19,200 draws) the mean gradient
is compared with it by Hotelling's T^2 = n d' S^-1 d, with d the difference and S the covariance of single batches;
T^2 (n - D) / (D (n - 1)) is F-distributed with D and n - D degrees of freedom if the expectation is right.

  alpha    1e-4: the chance that a right service fails, were the seeds drawn anew.
  power    0.999 against any shift of the expected gradient of 0.66 standard deviations of one batch's gradient
           (Mahalanobis), that is 0.058 of a single draw's: the non-central F with non-centrality n x 0.66^2 = 65
           exceeds the critical value with that probability (`test_the_power_is_what_is_claimed`).
  wrong    dealing the batch out in equal shares shifts it by several times that and is rejected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import SampledBatch, SampleRequest
from tests.helpers.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config
from upcycle.experience.chunks import MAX_PRIORITY, Array

pytestmark = pytest.mark.slow

DIMENSIONS, BATCHES, BATCH_SIZE = 4, 150, 128
ALPHA, POWER, EFFECT = 1e-4, 0.999, 0.66
PRIORITY_EXPONENT, WEIGHT_EXPONENT = 0.6, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """One table of all chunks in NumPy: priorities by chunk number and offset, float64 [chunks, steps]; 0 is none."""

    priorities: Array

    @property
    def num_items(self) -> int:
        return int(np.count_nonzero(self.priorities))

    def probabilities(self, exponent: float) -> Array:
        weights = np.where(self.priorities > 0, self.priorities**exponent, 0.0)
        return weights / weights.sum()


def unequal_oracle(num_chunks: int, seed: int) -> Oracle:
    """Priorities over four orders of magnitude, a fifth of them absent."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(0.01, 20.0, num_chunks)[:, None]
    priorities = scale * rng.uniform(0.5, 2.0, (num_chunks, SPEC.steps))
    return Oracle(np.where(rng.random(priorities.shape) < 0.2, 0.0, priorities).astype(np.float32).astype(np.float64))


def fill(addresses: dict[int, str], oracle: Oracle) -> list[int]:
    """Shard k gets twice as many chunks as shard k - 1, in the order of their mass. Returns the shard of each chunk."""
    parts = [2**k / (2 ** len(addresses) - 1) for k in range(len(addresses))]
    bounds = np.round(np.cumsum(parts) * len(oracle.priorities)).tolist()
    holders = [sum(number >= bound for bound in bounds) for number in range(len(oracle.priorities))]
    for number, holder in enumerate(holders):
        with connected({holder: addresses[holder]}) as single:
            insert(single, number, oracle.priorities[number])
    return holders


def insert(replay: ShardedReplay, number: int, priorities: Array) -> None:
    data = make_data(number, priorities=priorities)
    replay.insert("online", [data], writer_id="w", first_sequence=number, timeout_seconds=10)


def sample(replay: ShardedReplay, batch_size: int = BATCH_SIZE, *, beta: float = WEIGHT_EXPONENT) -> SampledBatch:
    return replay.sample(
        SampleRequest(
            tables="online", batch_size=batch_size, view=VIEW, importance_sampling_exponent=beta, timeout_seconds=10
        )
    )[0]


def assert_exact(batch: SampledBatch, oracle: Oracle, beta: float) -> None:
    """What the batch says about itself is what one table of all chunks would say."""
    exact = oracle.probabilities(PRIORITY_EXPONENT)[batch.policy_version, batch.keys.offset]
    np.testing.assert_allclose(batch.probabilities, exact, rtol=1e-9)
    weights = (oracle.num_items * exact) ** -beta
    np.testing.assert_allclose(batch.importance_weights, weights / weights.max(), rtol=1e-6)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("num_shards", [1, 3, 4])
def test_probabilities_and_weights_are_those_of_one_table(num_shards: int, stratified: bool) -> None:
    oracle = unequal_oracle(15, seed=num_shards)
    config = table_config(capacity_steps=400, priority_exponent=PRIORITY_EXPONENT, stratified=stratified)
    with running_shards([config], count=num_shards, seed=4) as (_, addresses):
        holders = fill(addresses, oracle)
        with connected(addresses) as replay:
            for round_number in range(6):
                beta = (0.0, 0.4, 1.0)[round_number % 3]
                batch = sample(replay, 200, beta=beta)
                assert_exact(batch, oracle, beta)
                assert batch.keys.shard.tolist() == [holders[number] for number in batch.policy_version]
                # New priorities move mass between shards; the last of a transition that is named twice stays.
                priorities = np.random.default_rng(round_number).uniform(0.01, 30.0, 200)
                replay.update_priorities("online", batch.keys, priorities)
                oracle.priorities[batch.policy_version, batch.keys.offset] = priorities


def test_probabilities_are_exact_before_during_and_after_a_join_a_drain_and_a_leave() -> None:
    """And the expected gradient, of a mixture of old shards, one that drains and one that has joined."""
    whole = unequal_oracle(24, seed=5)
    config = table_config(capacity_steps=400, priority_exponent=PRIORITY_EXPONENT)
    with running_shards([config], count=3, seed=6) as (shards, addresses):
        joining = addresses.pop(2)
        fill(addresses, Oracle(whole.priorities[:12]))
        oracle = Oracle(np.where(np.arange(24)[:, None] < 12, whole.priorities, 0.0))
        with connected(addresses) as replay:

            def grow(numbers: Sequence[int]) -> None:
                for number in numbers:
                    insert(replay, number, whole.priorities[number])
                    oracle.priorities[number] = whole.priorities[number]

            def check(num_batches: int = 5) -> list[SampledBatch]:
                batches = [sample(replay) for _ in range(num_batches)]
                for batch in batches:
                    assert_exact(batch, oracle, WEIGHT_EXPONENT)
                return batches

            check()
            addresses[2] = joining  # empty
            while len(replay.stats("online").shards) < 3:
                check(1)
            check()
            grow(range(12, 18))  # more to the new one, and something to each: nothing is moved
            grown = {index: stats.num_chunks for index, stats in replay.stats("online").shards.items()}
            assert 2 <= grown[2] < 6
            check()
            shards[0].drain()
            replay.stats("online")
            check()
            grow(range(18, 24))
            held = {index: stats.num_chunks for index, stats in replay.stats("online").shards.items()}
            assert (held[0], sum(held.values())) == (grown[0], 24)
            assert held[2] > grown[2]
            batches = check(BATCHES)
            assert p_value(gradients(batches, oracle), expected_gradient(oracle)) > ALPHA
            left = {number for batch in batches for number in batch.policy_version[batch.keys.shard == 0].tolist()}
            assert len(left) == held[0]
            del addresses[0]  # nobody has to wait until the client has noticed: each batch is of one or the other
            gone = Oracle(oracle.priorities.copy())
            gone.priorities[sorted(left)] = 0.0
            while 0 in (batch := sample(replay)).keys.shard:
                assert_exact(batch, oracle, WEIGHT_EXPONENT)
            oracle.priorities[:] = gone.priorities
            check()


def gradients(batches: Sequence[SampledBatch], oracle: Oracle) -> Array:
    """Of each batch, with weights (N P)^-beta: the batch's maximum, a random factor, is left out. [BATCHES, D]."""
    (features, errors), gradient = model(oracle), list[Array]()
    for batch in batches:
        drawn = (batch.policy_version, batch.keys.offset)
        weights = (oracle.num_items * batch.probabilities) ** -WEIGHT_EXPONENT
        gradient.append(np.mean((weights * errors[drawn])[:, None] * features[drawn], axis=0))
    return np.array(gradient)


def expected_gradient(oracle: Oracle) -> Array:
    """Its exact expectation, [D]."""
    features, errors = model(oracle)
    probabilities = oracle.probabilities(PRIORITY_EXPONENT)
    weights = np.where(probabilities > 0, (oracle.num_items * np.maximum(probabilities, 1e-300)) ** -WEIGHT_EXPONENT, 0)
    return ((probabilities * weights * errors)[:, :, None] * features).sum(axis=(0, 1))


def model(oracle: Oracle) -> tuple[Array, Array]:
    """Features [chunks, steps, D] and errors [chunks, steps], both of which go with the chunk and so with the shard."""
    rng, shape = np.random.default_rng(8), oracle.priorities.shape
    trend = np.linspace(-1.0, 1.0, shape[0])[:, None, None]
    return trend + rng.normal(size=(*shape, DIMENSIONS)), 1.0 + 0.5 * rng.normal(size=shape)


def p_value(observed: Array, expected: Array) -> float:
    """Of Hotelling's test that rows of `observed` [n, D] have the mean `expected` [D]."""
    from scipy import stats

    n, dimensions = observed.shape
    difference: Array = observed.mean(axis=0) - expected
    covariance: Array = np.cov(observed.T)
    t_squared = n * float(difference @ np.linalg.solve(covariance, difference))
    return float(stats.f.sf(t_squared * (n - dimensions) / (dimensions * (n - 1)), dimensions, n - dimensions))


def draw_batches(num_shards: int, oracle: Oracle, *, stratified: bool = True) -> list[SampledBatch]:
    config = table_config(capacity_steps=400, priority_exponent=PRIORITY_EXPONENT, stratified=stratified)
    with running_shards([config], count=num_shards, seed=2) as (_, addresses):
        fill(addresses, oracle)
        with connected(addresses, seed=num_shards) as replay:
            return [sample(replay) for _ in range(BATCHES)]


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("num_shards", [1, 4])
def test_the_expected_gradient_is_that_of_one_table(num_shards: int, stratified: bool) -> None:
    oracle = unequal_oracle(15, seed=9)
    batches = draw_batches(num_shards, oracle, stratified=stratified)
    assert p_value(gradients(batches, oracle), expected_gradient(oracle)) > ALPHA


def equal_shares(batch_size: int, parts: Array, rng: np.random.Generator, **_: bool) -> Array:
    """The deliberate mistake: as many draws of each shard, whatever its mass."""
    return rng.permutation(np.diff(np.linspace(0, batch_size, len(parts) + 1).astype(np.int64)))


def slightly_wrong(batch_size: int, parts: Array, rng: np.random.Generator, **_: bool) -> Array:
    """Equal shares in one batch of five."""
    right = rng.multinomial(batch_size, parts / parts.sum()).astype(np.int64)
    return equal_shares(batch_size, parts, rng) if rng.random() < 0.2 else right


@pytest.mark.parametrize("mistake", [equal_shares, slightly_wrong])
def test_a_wrong_allocation_is_rejected(mistake: Callable[..., Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay_service.client.batch_drawer.split_batch", mistake)
    oracle = unequal_oracle(15, seed=9)
    assert p_value(gradients(draw_batches(4, oracle), oracle), expected_gradient(oracle)) < ALPHA


def test_the_power_is_what_is_claimed() -> None:
    from scipy import stats

    freedom = (DIMENSIONS, BATCHES - DIMENSIONS)
    critical = stats.f.isf(ALPHA, *freedom)
    assert stats.ncf.sf(critical, *freedom, BATCHES * EFFECT**2) >= POWER
    assert stats.ncf.sf(critical, *freedom, BATCHES * (0.9 * EFFECT) ** 2) < POWER  # no less an effect would do
    rng = np.random.default_rng(3)
    shifted = rng.normal(size=(200, BATCHES, DIMENSIONS)) + np.array([EFFECT, 0.0, 0.0, 0.0])
    assert sum(p_value(observed, np.zeros(DIMENSIONS)) < ALPHA for observed in shifted) >= 198


def test_the_highest_priority_reaches_shards_that_have_not_seen_it() -> None:
    config = table_config(capacity_steps=400)
    with running_shards([config], count=3) as (_, addresses), connected(addresses) as learner:
        for number in range(3):
            insert(learner, number, np.ones(SPEC.steps))
        batch = sample(learner, 24)
        first = batch.keys.shard == batch.keys.shard[0]
        raised = np.where(first, 50.0, 1.0)
        learner.update_priorities("online", batch.keys, raised)
        sample(learner, 24)  # tells every shard that it draws from
        with connected(addresses, seed=1) as actor:  # which has never heard of it
            for number in range(3, 6):
                insert(actor, number, np.full(SPEC.steps, MAX_PRIORITY))
            shards = actor.stats("online").shards.values()
        assert [stats.max_priority for stats in shards] == [50.0, 50.0, 50.0]
        assert sorted(round(stats.mass) for stats in shards)[:2] == [8 + 400, 8 + 400]


def test_late_updates_are_counted_at_the_shard_that_dropped_them() -> None:
    config = table_config(capacity_steps=SPEC.steps)  # one chunk: each insert overwrites the one before
    with running_shards([config], count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, 0, np.ones(SPEC.steps))
        insert(replay, 1, np.ones(SPEC.steps))
        batch = sample(replay, 32)
        overwritten = int(batch.keys.shard[0])
        with connected({overwritten: addresses[overwritten]}) as single:
            insert(single, 2, np.ones(SPEC.steps))
        replay.update_priorities("online", batch.keys, np.full(32, 3.0))
        late = {index: stats.num_stale_updates for index, stats in replay.stats("online").shards.items()}
        assert late == {overwritten: int(np.count_nonzero(batch.keys.shard == overwritten)), 1 - overwritten: 0}
        assert replay.stats("online").num_stale_updates == late[overwritten] == 16
        assert replay.stats("online").num_dropped_updates == 0
