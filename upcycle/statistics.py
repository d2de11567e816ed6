"""What scores of several episodes, runs and games say, and how sure it is: seeded bootstrap intervals.

A score matrix is a sequence of games, each the scores of its runs, float [runs of that game]; games may differ in
their number of runs. Intervals are percentile bootstrap intervals in which runs are drawn anew within each game, so
that every resample has the games of the original (Agarwal et al. 2021, arXiv 2108.13264, section 4.2). All functions
are pure: the same arguments give the same result. `docs/results/statistics.md` compares them with rliable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of the values; low <= high."""

    low: float
    high: float


def normalised_score(mean_return: float, *, random: float, reference: float) -> float:
    """(G - G_random) / (G_reference - G_random): 0 for random play, 1 for the reference, not clipped.

    The sign of a raw return does not matter to it (Pong's are negative for weak agents).

    Raises: ValueError if both baselines are the same.
    """
    if reference == random:
        raise ValueError(f"the reference score equals the random score, {random}: nothing to measure against")
    return (mean_return - random) / (reference - random)


def mean_interval(
    values: ArrayLike, *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 5_000
) -> Interval:
    """Percentile bootstrap interval of the mean of independent values, float [n], n >= 1.

    One value, or equal ones, give an interval of width 0: they say nothing about their spread.
    """
    return stratified_mean_interval([values], seed=seed, confidence=confidence, num_resamples=num_resamples)


def stratified_mean_interval(
    games: Sequence[ArrayLike], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 5_000
) -> Interval:
    """The same for the mean over all scores of several games, resampled within each.

    Raises: ValueError if a game is empty or holds a value that is not finite.
    """
    resamples = _resample(_checked(games), np.random.default_rng(seed), num_resamples)
    return _percentiles(resamples.mean(axis=1), confidence)


def interquartile_mean(games: Sequence[ArrayLike]) -> float:
    """Mean of the middle half of all scores, pooled over runs and games.

    Of n scores floor(n / 4) are left out at either end, as `scipy.stats.trim_mean` and rliable do: a fraction of a
    score stays in whole, so that three scores or fewer give their plain mean.

    Raises: ValueError as `stratified_mean_interval`.
    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3.
    """
    return float(_trimmed_mean(np.concatenate(_checked(games))))


def interquartile_mean_interval(
    games: Sequence[ArrayLike], *, seed: int = 0, confidence: float = 0.95, num_resamples: int = 5_000
) -> Interval:
    """Stratified bootstrap interval of `interquartile_mean`. Raises: ValueError as it does."""
    resamples = _resample(_checked(games), np.random.default_rng(seed), num_resamples)
    return _percentiles(_trimmed_mean(resamples), confidence)


def probability_of_improvement(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> float:
    """P(X > Y): how likely a run of X scores above a run of Y on the same game, ties counting one half.

    The Mann-Whitney statistic of each game over its number of pairs, averaged over games with equal weight.

    Args:
      x: scores of X, game by game.
      y: scores of Y on the same games in the same order; the numbers of runs may differ.
    Raises: ValueError if the numbers of games differ, a game is empty or holds a value that is not finite.
    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3.
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def probability_of_improvement_interval(
    x: Sequence[ArrayLike],
    y: Sequence[ArrayLike],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    num_resamples: int = 5_000,
) -> Interval:
    """Bootstrap interval of `probability_of_improvement`, the runs of X and of Y drawn apart. Raises: as it does."""
    rng = np.random.default_rng(seed)
    games = _wins(x, y)
    total = np.zeros(num_resamples)
    for wins in games:  # [n, m]
        # How often a resample draws each run is all that its mean over pairs depends on.
        of_x, of_y = (rng.multinomial(size, np.full(size, 1 / size), num_resamples) / size for size in wins.shape)
        total += ((of_x @ wins) * of_y).sum(axis=1)  # [num_resamples, m] before the sum
    return _percentiles(total / len(games), confidence)


def _checked(games: Sequence[ArrayLike]) -> list[_Scores]:
    """The games as flat arrays. Raises: ValueError."""
    arrays: list[_Scores] = [np.asarray(game, np.float64).ravel() for game in games]
    if not arrays or any(array.size == 0 or not np.isfinite(array).all() for array in arrays):
        raise ValueError("every game needs at least one score, and all must be finite")
    return arrays


def _resample(games: Sequence[_Scores], rng: np.random.Generator, num_resamples: int) -> _Scores:
    """Scores drawn with replacement within each game, float [num_resamples, scores of all games]."""
    drawn = [game[rng.integers(game.size, size=(num_resamples, game.size))] for game in games]
    return np.concatenate(drawn, axis=1)


def _trimmed_mean(scores: _Scores) -> _Scores:
    """Mean over the last axis without its lowest and its highest quarter, rounded down."""
    size = scores.shape[-1]
    cut = size // 4
    return np.sort(scores, axis=-1)[..., cut : size - cut].mean(axis=-1)


def _wins(x: Sequence[ArrayLike], y: Sequence[ArrayLike]) -> list[_Scores]:
    """For each game, float [runs of x, runs of y]: 1 where x is above y, 0.5 where they are equal, else 0."""
    ours, theirs = _checked(x), _checked(y)
    if len(ours) != len(theirs):
        raise ValueError(f"x has {len(ours)} games and y has {len(theirs)}; both need the same ones in the same order")
    return [np.greater.outer(a, b) + 0.5 * np.equal.outer(a, b) for a, b in zip(ours, theirs, strict=True)]


def _percentiles(statistics: _Scores, confidence: float) -> Interval:
    """The middle part of a bootstrap distribution, float [num_resamples]."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistics, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
