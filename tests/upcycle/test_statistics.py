import random
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upcycle.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    mean_interval,
    normalised_score,
    probability_of_improvement,
    probability_of_improvement_interval,
    stratified_mean_interval,
)

RAGGED = [[0.1, 0.9, 0.4], [2.0, -1.0], [0.3, 0.2, 0.8, 0.5]]
GAMES = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), min_size=1, max_size=5)
NOT_SCORES: list[list[list[float]]] = [[], [[]], [[1.0], []], [[float("nan")]], [[1.0], [float("inf")]]]


def test_agrees_with_scipy() -> None:
    from scipy import stats

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


@pytest.mark.parametrize("games", NOT_SCORES)
def test_nothing_to_resample_is_refused(games: list[list[float]]) -> None:
    for function in (stratified_mean_interval, interquartile_mean, interquartile_mean_interval):
        with pytest.raises(ValueError, match="finite"):
            function(games)
    for x, y in ((games, RAGGED), (RAGGED, games)):
        for function in (probability_of_improvement, probability_of_improvement_interval):
            with pytest.raises(ValueError, match="finite"):
                function(x, y)


@pytest.mark.parametrize(
    ("games", "expected"),
    [
        ([[4.0]], 4.0),
        ([[0.0, 0.0, 9.0]], 3.0),  # three quarters of a score are not cut
        ([[100.0, 2.0, 1.0, -100.0]], 1.5),
        ([[1.0, 2.0, 3.0], [4.0, 50.0]], 3.0),  # one of five is cut at either end: 2, 3, 4
        ([[8.0, 7.0], [6.0, 5.0], [4.0, 3.0], [2.0, 1.0]], 4.5),
        ([[0.0] * 4, [1.0] * 4], 0.5),
    ],
)
def test_the_interquartile_mean_drops_whole_quarters_of_the_pool(games: list[list[float]], expected: float) -> None:
    assert interquartile_mean(games) == pytest.approx(expected)


@given(GAMES)
def test_the_interquartile_mean_is_scipys_trimmed_mean_of_the_pool(games: list[list[float]]) -> None:
    from scipy import stats

    pool = [score for game in games for score in game]
    theirs = float(cast(Any, stats).trim_mean(pool, 0.25))
    assert interquartile_mean(games) == pytest.approx(theirs, rel=1e-9, abs=1e-6)
    assert interquartile_mean([pool]) == pytest.approx(interquartile_mean(games[::-1]), rel=1e-9, abs=1e-6)


def slow_bootstrap(
    statistic: Any, matrices: Sequence[Sequence[Sequence[float]]], seed: int, num_resamples: int
) -> tuple[float, float]:
    """An oracle with loops alone: every game of every matrix is drawn anew, run by run."""
    rng = random.Random(seed)
    values: list[float] = []
    for _ in range(num_resamples):
        drawn = [[rng.choices(game, k=len(game)) for game in matrix] for matrix in matrices]
        values.append(float(statistic(*drawn)))
    values.sort()
    return values[round(0.025 * num_resamples)], values[round(0.975 * num_resamples) - 1]


def test_the_interval_of_the_interquartile_mean_agrees_with_a_bootstrap_in_loops() -> None:
    from scipy import stats

    def pooled(games: Sequence[Sequence[float]]) -> float:
        return float(cast(Any, stats).trim_mean([score for game in games for score in game], 0.25))

    low, high = slow_bootstrap(pooled, [RAGGED], seed=5, num_resamples=4_000)
    ours = interquartile_mean_interval(RAGGED, num_resamples=20_000)
    assert ours.low == pytest.approx(low, abs=0.02)
    assert ours.high == pytest.approx(high, abs=0.02)
    assert ours.low < interquartile_mean(RAGGED) < ours.high


def test_the_interquartile_means_runs_are_drawn_within_their_game() -> None:
    within = interquartile_mean_interval([[0.0] * 4, [10.0] * 4])
    assert (within.low, within.high) == (5.0, 5.0)
    pooled = interquartile_mean_interval([[0.0] * 4 + [10.0] * 4])
    assert pooled.low < 2.0
    assert pooled.high > 8.0


def pairs_won(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> float:
    """The definition: pairs won, half of the ties, over all pairs; then the mean over games."""
    games = [[(a > b) + 0.5 * (a == b) for a in ours for b in theirs] for ours, theirs in zip(x, y, strict=True)]
    return sum(sum(game) / len(game) for game in games) / len(games)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([[1.0]], [[0.0]], 1.0),
        ([[1.0]], [[1.0]], 0.5),
        ([[1.0, 3.0]], [[2.0]], 0.5),
        ([[1.0, 2.0, 3.0]], [[2.0, 0.0]], (0.5 * 3 + 1.0 + 2.0) / 6),
        ([[5.0], [0.0, 0.0, 0.0]], [[4.0], [1.0]], 0.5),  # games weigh the same, however many runs they have
    ],
)
def test_the_probability_of_improvement_counts_pairs_game_by_game(
    x: list[list[float]], y: list[list[float]], expected: float
) -> None:
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(y, x) == pytest.approx(1 - expected)


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 4), min_size=1, max_size=5)] * 2), min_size=1, max_size=4))
def test_the_probability_of_improvement_is_the_mann_whitney_statistic(games: list[tuple[list[int], list[int]]]) -> None:
    from scipy import stats

    x, y = [list(map(float, game[0])) for game in games], [list(map(float, game[1])) for game in games]
    assert probability_of_improvement(x, y) == pytest.approx(pairs_won(x, y))
    theirs = [
        cast(Any, stats).mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b))
        for a, b in zip(x, y, strict=True)
        if len({*a, *b}) > 1  # scipy divides by a spread of nothing
    ]
    ours = [probability_of_improvement([a], [b]) for a, b in zip(x, y, strict=True) if len({*a, *b}) > 1]
    assert ours == pytest.approx(theirs)


def test_the_interval_of_the_probability_agrees_with_a_bootstrap_in_loops() -> None:
    y = [[0.3, 0.5], [1.0, 0.0, -2.0], [0.3, 0.6]]
    low, high = slow_bootstrap(pairs_won, [RAGGED, y], seed=6, num_resamples=4_000)
    ours = probability_of_improvement_interval(RAGGED, y, num_resamples=20_000)
    assert ours.low == pytest.approx(low, abs=0.03)
    assert ours.high == pytest.approx(high, abs=0.03)
    certain = probability_of_improvement_interval([[2.0, 3.0]], [[0.0, 1.0]])
    assert (certain.low, certain.high) == pytest.approx((1.0, 1.0))


def test_improvement_over_other_games_is_refused() -> None:
    with pytest.raises(ValueError, match="x has 3 games and y has 1"):
        probability_of_improvement(RAGGED, [[1.0]])


@pytest.mark.parametrize("games", [RAGGED, [[0.5]], [[1.0, 1.0], [3.0]]])
def test_intervals_depend_on_their_arguments_alone(games: list[list[float]]) -> None:
    np.random.seed(1)
    before = interquartile_mean_interval(games, seed=4), probability_of_improvement_interval(games, games, seed=4)
    np.random.seed(2)
    after = interquartile_mean_interval(games, seed=4), probability_of_improvement_interval(games, games, seed=4)
    assert before == after
    assert before[0].low <= interquartile_mean(games) <= before[0].high


@pytest.mark.parametrize(
    ("mean_return", "random_score", "reference", "expected"),
    [
        (-20.7, -20.7, 19.7, 0.0),
        (19.7, -20.7, 19.7, 1.0),
        (-10.0, -20.7, 19.7, 10.7 / 40.4),  # 1 - G / G_T would call this 1.51 below its teacher
        (-5.0, -20.7, -10.0, 15.7 / 10.7),
        (-21.0, -20.7, 19.7, -0.3 / 40.4),
    ],
)
def test_scores_are_normalised_whatever_their_sign(
    mean_return: float, random_score: float, reference: float, expected: float
) -> None:
    assert normalised_score(mean_return, random=random_score, reference=reference) == pytest.approx(expected)


def test_a_reference_that_is_the_random_score_measures_nothing() -> None:
    with pytest.raises(ValueError, match="equals the random score"):
        normalised_score(1.0, random=2.0, reference=2.0)
