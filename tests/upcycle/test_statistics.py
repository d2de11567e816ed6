from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from upcycle.statistics import mean_interval, stratified_mean_interval


def test_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 25)
    rng = np.random.default_rng(1)
    theirs = (
        cast(Any, stats)
        .bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
        .confidence_interval
    )
    ours = mean_interval(values, num_resamples=20_000)
    assert ours.low == pytest.approx(theirs.low, abs=0.05)
    assert ours.high == pytest.approx(theirs.high, abs=0.05)


def test_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    samples = [rng.exponential(1.0, 60) for _ in range(200)]
    intervals = [mean_interval(sample, num_resamples=500, seed=i) for i, sample in enumerate(samples)]
    assert 0.88 <= np.mean([interval.low <= 1.0 <= interval.high for interval in intervals]) <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 5.0, 2.0, 8.0]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)


def test_strata_are_resampled_within_themselves() -> None:
    # Each group is constant: resampling within groups cannot move the mean, resampling over all of them would.
    interval = stratified_mean_interval([[0.0] * 5, [10.0] * 5])
    assert (interval.low, interval.high) == (5.0, 5.0)
    pooled = mean_interval([0.0] * 5 + [10.0] * 5)
    assert pooled.low < 4.0
    assert pooled.high > 6.0


def test_one_value_has_no_spread() -> None:
    interval = mean_interval([4.5])
    assert (interval.low, interval.high) == (4.5, 4.5)


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []], [[float("nan")]]])
def test_nothing_to_resample_is_refused(groups: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="finite"):
        stratified_mean_interval(groups)
