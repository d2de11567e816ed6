"""The sum tree against a plain array."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.table.sum_tree import SumTree
from upcycle.experience.chunks import Array

# Whole numbers, so that sums are exact and the oracle's boundaries are the tree's.
WEIGHTS = st.integers(0, 1000).map(float)


def found_by_hand(weights: Array, position: float) -> int:
    running = 0.0
    for item, weight in enumerate(weights):
        running += weight
        if position < running:
            return item
    raise AssertionError("position beyond the total")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), num_leaves=st.integers(1, 70))
def test_any_sequence_of_writes_leaves_the_tree_like_a_plain_array(data: st.DataObject, num_leaves: int) -> None:
    tree, oracle = SumTree(num_leaves), np.zeros(num_leaves)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            items = data.draw(st.lists(st.integers(0, num_leaves - 1), min_size=1, max_size=10))
            weights = data.draw(st.lists(WEIGHTS, min_size=len(items), max_size=len(items)))
            tree.set(np.array(items), np.array(weights))
            for item, weight in zip(items, weights, strict=True):
                oracle[item] = weight
        else:
            start = data.draw(st.integers(0, num_leaves - 1))
            weights = data.draw(st.lists(WEIGHTS, min_size=1, max_size=num_leaves - start))
            tree.set_range(start, np.array(weights))
            oracle[start : start + len(weights)] = weights
        tree.check_invariants()
        np.testing.assert_array_equal(tree.weights, oracle)
        assert tree.total == oracle.sum()
        if tree.total > 0:
            fractions = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=10))
            positions = np.minimum(np.array(fractions) * tree.total, np.nextafter(tree.total, 0))
            assert tree.find(positions).tolist() == [found_by_hand(oracle, position) for position in positions]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e12)), min_size=1, max_size=40).filter(any),
    fraction=st.floats(0, 1),
)
def test_what_is_found_always_has_weight_whatever_rounding_does(weights: list[float], fraction: float) -> None:
    tree = SumTree(len(weights))
    tree.set_range(0, np.array(weights))
    # The last two are positions that rounding has carried to the total and beyond.
    positions = np.array([0.0, fraction, np.nextafter(1.0, 0), 1.0, np.nextafter(1.0, 2)]) * tree.total
    assert bool((np.array(weights)[tree.find(positions)] > 0).all())


def test_an_empty_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="num_leaves"):
        SumTree(0)


def test_weights_cannot_be_changed_behind_the_tree() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SumTree(3).weights[0] = 1.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(num_leaves=st.integers(1, 300), num_updates=st.integers(500, 1500), seed=st.integers(0, 10_000))
def test_nothing_drifts_however_often_weights_change_by_orders_of_magnitude(
    num_leaves: int, num_updates: int, seed: int
) -> None:
    rng, tree, oracle = np.random.default_rng(seed), SumTree(num_leaves), np.zeros(num_leaves)
    for _ in range(num_updates):
        items = rng.integers(0, num_leaves, rng.integers(1, 9))
        weights = np.where(rng.random(len(items)) < 0.1, 0.0, 10.0 ** rng.uniform(-14, 14, len(items)))
        tree.set(items, weights)
        for item, weight in zip(items.tolist(), weights.tolist(), strict=True):
            oracle[item] = weight
    # Whatever was there before has left nothing behind, to the last bit.
    afresh = SumTree(num_leaves)
    afresh.set_range(0, oracle)
    assert tree.total == afresh.total
    tree.check_invariants()
    exact = math.fsum(oracle.tolist())
    bound = max((num_leaves - 1).bit_length(), 1) * 2.0**-53
    assert abs(tree.total - exact) <= bound * exact
    # What is found covers its position, up to the rounding of the sums above it.
    positions = rng.random(50) * tree.total
    for item, position in zip(tree.find(positions).tolist(), positions.tolist(), strict=True):
        below = math.fsum(oracle[:item].tolist())
        assert below - 4 * bound * exact <= position <= below + oracle[item] + 4 * bound * exact
    tree.set_range(0, np.zeros(num_leaves))
    assert tree.total == 0.0  # no dust, which would let an item without weight be drawn
