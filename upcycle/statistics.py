"""How sure a mean score is: seeded bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of the values; low <= high."""

    low: float
    high: float


def mean_interval(
    values: ArrayLike, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 5_000
) -> Interval:
    """Percentile bootstrap interval of the mean of independent values, float [n], n >= 1.

    One value, or equal ones, give an interval of width 0: they say nothing about their spread.
    """
    return stratified_mean_interval([values], seed=seed, confidence=confidence, num_resamples=num_resamples)


def stratified_mean_interval(
    strata: Sequence[ArrayLike], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 5_000
) -> Interval:
    """The same for the mean over all values of several groups (games), resampled within each group.

    Raises: ValueError if a group is empty or holds a value that is not finite.
    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.2.
    """
    groups: list[NDArray[np.float64]] = [np.asarray(group, np.float64).ravel() for group in strata]
    if not groups or any(group.size == 0 or not np.isfinite(group).all() for group in groups):
        raise ValueError("every group needs at least one value, and all must be finite")
    rng = np.random.default_rng(seed)
    sums = np.zeros(num_resamples)
    for group in groups:
        sums += group[rng.integers(group.size, size=(num_resamples, group.size))].sum(axis=1)
    means = sums / sum(group.size for group in groups)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
