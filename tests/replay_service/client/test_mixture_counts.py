"""How many rows of a batch each table of a mixture gives."""

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.allocation import mixture_counts
from upcycle.experience.chunks import Array


class FixedStart:
    """Stands in for a generator: batches in order, all starting at one point."""

    def __init__(self, start: float) -> None:
        self._start = start

    def permutation(self, length: int) -> Array:
        return np.arange(length)

    def random(self) -> float:
        return self._start


SHARES = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(parts=SHARES, batch_size=st.integers(1, 64), num_batches=st.integers(1, 9), seed=st.integers(0, 99))
def test_counts_are_exact(parts: list[int], batch_size: int, num_batches: int, seed: int) -> None:
    q = np.array(parts) / sum(parts)
    counts = mixture_counts(q, batch_size, num_batches, np.random.default_rng(seed))
    assert counts.shape == (num_batches, len(parts))
    assert (counts.sum(axis=1) == batch_size).all()
    assert (np.abs(counts - batch_size * q) < 1).all()
    assert (np.abs(counts.sum(axis=0) - num_batches * batch_size * q) < 1).all()
    whole = [batch_size * part % sum(parts) == 0 for part in parts]
    expected = [batch_size * part // sum(parts) for part in parts]
    assert (counts[:, whole] == np.array(expected)[whole]).all()


@pytest.mark.parametrize("start", [0.0, float(np.nextafter(1.0, 0.0))])
def test_rounding_makes_no_whole_count_another(start: float) -> None:
    parts = np.array([0.1, 0.2, 0.3, 0.4])  # whose sums are not the floats 0.3 and 0.6
    counts = mixture_counts(parts, 10, 1, cast(np.random.Generator, FixedStart(start)))
    assert counts.tolist() == [[1, 2, 3, 4]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(parts=SHARES, batch_size=st.integers(1, 20), num_batches=st.integers(1, 4))
def test_the_expected_counts_are_exact(parts: list[int], batch_size: int, num_batches: int) -> None:
    """Averaged over all starting points that give different counts: they lie on a grid, since the shares do."""
    grid = sum(parts)
    total = np.zeros((num_batches, len(parts)))
    for point in range(num_batches * grid):
        start = (point + 0.5) / (num_batches * grid)
        rng = cast(np.random.Generator, FixedStart(start))
        total += mixture_counts(np.array(parts) / grid, batch_size, num_batches, rng)
    average = total.sum(axis=0) / (num_batches * num_batches * grid)
    np.testing.assert_allclose(average, batch_size * np.array(parts) / grid, atol=1e-9)
