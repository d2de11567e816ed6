"""Proportional draws, stratified and independent, against the frequencies that theory gives."""

import numpy as np
import pytest

from replay_service.client.allocation import shares, split_batch
from replay_service.table.sampler import PrioritySampler
from replay_service.table.types import SampleRequest
from tests.helpers.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config
from upcycle.experience.chunks import Array

PRIORITIES = np.array([0.1, 4.0, 0.0, 1.0, 2.5, 0.4, 8.0, 1.0])
BATCH, ROUNDS = 40, 2_000


def counts_of(*, stratified: bool, exponent: float = 0.6) -> tuple[Array, Array]:
    """How often each item was drawn in each of `ROUNDS` batches [ROUNDS, 8], and the exact probabilities [8]."""
    sampler = PrioritySampler(len(PRIORITIES), exponent, rng=np.random.default_rng(11), stratified=stratified)
    sampler.put(0, PRIORITIES, PRIORITIES > 0)
    weights = np.where(PRIORITIES > 0, PRIORITIES**exponent, 0.0)
    counts = np.zeros((ROUNDS, len(PRIORITIES)), np.int64)
    for number in range(ROUNDS):
        items, probability = sampler.draw(BATCH)
        np.testing.assert_allclose(probability, (weights / weights.sum())[items], rtol=1e-12)
        counts[number] = np.bincount(items, minlength=len(PRIORITIES))
    return counts, weights / weights.sum()


@pytest.mark.parametrize("stratified", [True, False])
def test_every_item_is_drawn_as_often_as_its_probability_says(stratified: bool) -> None:
    counts, exact = counts_of(stratified=stratified)
    assert not counts[:, exact == 0].any()
    errors = np.sqrt(BATCH * exact * (1 - exact) / ROUNDS)  # of independent draws; stratified ones vary less
    assert bool((np.abs(counts.mean(axis=0) - BATCH * exact) <= 5 * errors).all())


def test_stratified_counts_stay_near_their_expectation() -> None:
    counts, exact = counts_of(stratified=True)
    assert bool((np.abs(counts - BATCH * exact) < 2).all())


def test_independent_counts_vary_as_independent_draws_do() -> None:
    from scipy import stats

    counts, exact = counts_of(stratified=False)
    drawn = exact > 0
    variance = BATCH * exact * (1 - exact)
    # A sample variance of R rounds is off by a factor of sqrt(2 / R) = 0.03: five of that, and some for skewed ones.
    np.testing.assert_allclose(counts.var(axis=0)[drawn], variance[drawn], rtol=0.25)
    total = counts.sum(axis=0)[drawn]
    assert stats.chisquare(total, exact[drawn] * total.sum()).pvalue > 1e-4
    assert not bool((np.abs(counts - BATCH * exact) < 2).all())


def test_independent_draws_are_dealt_out_to_shards_as_independent_draws() -> None:
    rng, parts = np.random.default_rng(5), shares(np.array([0.2, 1.0, 3.3, 2.5, 0.0]))
    counts = np.array([split_batch(60, parts, rng, stratified=False) for _ in range(ROUNDS)])
    assert bool((counts.sum(axis=1) == 60).all())
    assert not counts[:, 4].any()
    np.testing.assert_allclose(counts.var(axis=0)[:4], (60 * parts * (1 - parts))[:4], rtol=0.25)
    errors = np.sqrt(60 * parts * (1 - parts) / ROUNDS)
    assert bool((np.abs(counts.mean(axis=0) - 60 * parts) <= 5 * errors).all())


@pytest.mark.parametrize("stratified", [True, False])
def test_a_table_says_how_it_draws_and_its_clients_follow(stratified: bool) -> None:
    config = table_config(capacity_steps=400, stratified=stratified)
    with running_shards([config], count=2, seed=1) as (_, addresses), connected(addresses) as replay:
        for number in range(2):  # one chunk for each shard, of masses 8 and 24
            data = make_data(number, priorities=np.full(SPEC.steps, 1.0 + 2.0 * number))
            replay.insert("online", [data], writer_id="w", first_sequence=number, timeout_seconds=10)
        assert replay.stats("online").stratified is stratified
        from_first = set[int]()
        for _ in range(30):
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=32, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
            from_first.add(int(np.count_nonzero(batch.policy_version == 0)))
        assert (from_first == {8}) is stratified
