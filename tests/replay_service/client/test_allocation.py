"""Dealing a batch out to shards, and the weights that make up for unequal probabilities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.allocation import importance_weights, shares, split_batch


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    masses=st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=8).filter(any),
    batch_size=st.integers(1, 600),
    seed=st.integers(0, 1000),
)
def test_counts_are_within_one_of_the_shares(masses: list[float], batch_size: int, seed: int) -> None:
    parts = shares(np.array(masses))
    counts = split_batch(batch_size, parts, np.random.default_rng(seed))
    assert counts.sum() == batch_size
    assert bool((np.abs(counts - parts * batch_size) < 1 + 1e-6).all())
    assert not counts[parts == 0].any()


def test_expected_counts_are_the_shares() -> None:
    rng, parts, rounds = np.random.default_rng(0), shares(np.array([0.2, 1.0, 3.3, 0.0, 2.5])), 5_000
    mean = sum(split_batch(7, parts, rng) for _ in range(rounds)) / rounds
    # Each count varies by less than 1, so its standard error is below 0.5 / sqrt(rounds) = 0.0071; five of them.
    np.testing.assert_allclose(mean, 7 * parts, atol=0.036)


def test_weights_by_hand() -> None:
    probabilities = np.array([0.1, 0.4, 0.025])
    weights, largest = importance_weights(probabilities, 10, 0.5)
    expected = np.array([1.0, 0.25**0.5 / 1.0, 2.0])  # (10 P)^-0.5 = 1, 0.5, 2
    assert weights.dtype == np.float32
    assert weights == pytest.approx(expected / 2.0)
    assert largest == pytest.approx(2.0)


def test_exponent_0_weighs_all_alike_and_exponent_1_undoes_the_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.2])
    assert importance_weights(probabilities, 3, 0.0)[0].tolist() == [1.0, 1.0, 1.0]
    weighted = importance_weights(probabilities, 3, 1.0)[0] * probabilities
    assert weighted == pytest.approx(np.full(3, weighted[0]))


def test_golden_importance_weights() -> None:
    """Priorities 4, 1 and 0.25 at beta 0.5."""
    probabilities = np.array([4.0, 1.0, 0.25]) / 5.25
    assert importance_weights(probabilities, 3, 0.5)[0].tolist() == pytest.approx([0.25, 0.5, 1.0])
