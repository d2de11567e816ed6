"""Compares `upcycle.statistics` with rliable on fixed random scores: `make check-statistics` prints a Markdown table.

rliable wants older libraries than ours, so it gets an environment of its own. Its `random_state` has no effect (1.2.0
draws from NumPy's global generator), hence the `np.random.seed`. Interval ends come from different random resamples;
"spread" says how far two seeds of rliable are apart, which is what a difference has to be judged by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from rliable import library, metrics

from upcycle import statistics

IQM_RESAMPLES = 50_000
PROBABILITY_RESAMPLES = 5_000  # rliable calls scipy once per game and resample


@dataclass(frozen=True)
class Case:
    """Scores of two agents, float [runs, games]; the numbers of runs may differ."""

    name: str
    x: np.ndarray
    y: np.ndarray


def cases() -> list[Case]:
    """Normal, heavy-tailed and tied scores, from one run of one game to 10 runs of 26 games."""
    rng = np.random.default_rng(0)
    normal = partial(rng.normal, 1.0, 0.5)
    return [
        Case("normal, 5 runs x 10 games", normal((5, 10)), normal((5, 10)) - 0.2),
        Case("normal, 3 x 10 and 5 x 10", normal((3, 10)), normal((5, 10))),
        Case("heavy-tailed, 10 x 26", rng.lognormal(0.0, 1.5, (10, 26)), rng.lognormal(0.3, 1.5, (10, 26))),
        Case("ties, 5 x 10", normal((5, 10)).round(), normal((5, 10)).round()),
        Case("5 runs x 1 game", normal((5, 1)), normal((5, 1)) - 0.3),
        Case("3 runs x 1 game: nothing is cut", normal((3, 1)), normal((3, 1))),
        Case("one run x 10 games", normal((1, 10)), normal((1, 10))),
    ]


def theirs(function: Callable[..., float], scores: tuple[np.ndarray, ...], resamples: int, seed: int) -> np.ndarray:
    """Estimate, low and high end of rliable's interval, float [3]."""
    np.random.seed(seed)
    given = scores[0] if len(scores) == 1 else list(scores)
    estimate, interval = library.get_interval_estimates(
        {"x": given}, lambda *drawn: np.array([function(*drawn)]), reps=resamples
    )
    return np.concatenate([estimate["x"], interval["x"].ravel()])


def ours(
    function: Callable[..., float],
    interval: Callable[..., statistics.Interval],
    scores: tuple[np.ndarray, ...],
    resamples: int,
) -> np.ndarray:
    """The same of `upcycle.statistics`, which takes scores game by game."""
    games = [list(matrix.T) for matrix in scores]
    found = interval(*games, num_resamples=resamples)
    return np.array([function(*games), found.low, found.high])


def row(case: str, mine: np.ndarray, first: np.ndarray, second: np.ndarray) -> str:
    """One line of the table."""
    difference, spread = np.abs(mine - first), np.abs(second - first)
    numbers = ", ".join(f"{value:.4f}" for value in mine), ", ".join(f"{value:.4f}" for value in first)
    return (
        f"| {case} | {numbers[0]} | {numbers[1]} | {difference[0]:.0e} | {difference[1:].max():.4f} "
        f"| {spread[1:].max():.4f} |"
    )


def main() -> None:
    """Prints both tables."""
    head = "| scores | ours: estimate, low, high | rliable | estimates differ | ends differ | spread |"
    print(f"Interquartile mean, {IQM_RESAMPLES:,} resamples:\n\n{head}\n|---|---|---|---|---|---|")
    for case in cases():
        mine = ours(statistics.interquartile_mean, statistics.interquartile_mean_interval, (case.x,), IQM_RESAMPLES)
        both = [theirs(metrics.aggregate_iqm, (case.x,), IQM_RESAMPLES, seed) for seed in (0, 1)]
        print(row(case.name, mine, *both), flush=True)
    print(f"\nProbability of improvement, {PROBABILITY_RESAMPLES:,} resamples:\n\n{head}\n|---|---|---|---|---|---|")
    for case in cases():
        pair = (case.x, case.y)
        mine = ours(
            statistics.probability_of_improvement,
            statistics.probability_of_improvement_interval,
            pair,
            PROBABILITY_RESAMPLES,
        )
        both = [theirs(metrics.probability_of_improvement, pair, PROBABILITY_RESAMPLES, seed) for seed in (0, 1)]
        print(row(case.name, mine, *both), flush=True)


if __name__ == "__main__":
    main()
