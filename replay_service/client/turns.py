"""Whose turn it is: amounts dealt out over the shards, so that none is favoured. Pure.

Both sides of a table deal by the same weights: writers their chunks, learners the shards at which their samples are
booked. A shard's account lets inserts and samples apart by its share of the error buffer and no further, so the side
that is the slower one settles how much each shard gets, the other follows, and all accounts move together.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from replay_service.table.table_stats import TableStats

_CATCH_UP: Final = 4.0  # times its part, so that the others still get theirs: one shard alone may be the slower one
_LAG: Final = 0.05  # of its capacity, and two chunks at the least: less comes of chunks under way and old counters
_LAG_CHUNKS: Final = 2
_OWED_TURNS: Final = 4


class Turns:
    """Deals amounts out in proportion to weights: whoever has been given least for its weight is next.

    Guarantee: with weights that stay, and as long as each takes its turns, what two shards have been given for their
    weights differs by no more than the largest amount for the smallest weight. Who has not taken a turn is owed it, but
    no more than four; who is new is owed none. Among equals a shard comes first that `first` tells, not the lowest.

    Args:
      first: any number; give every client another, so that not all of them begin with the same shard.
    """

    def __init__(self, first: int = 0) -> None:
        self._first, self._largest = first, 0.0
        self._given: dict[int, float] = {}  # for its weight, by shard

    def order(self, weights: Mapping[int, float]) -> list[int]:
        """These shards, whose turn it is first."""
        indices = sorted(weights)
        self._admit(indices)
        first = self._first % max(len(indices), 1)
        return sorted(indices[first:] + indices[:first], key=lambda index: self._given[index])

    def give(self, index: int, amount: float, weights: Mapping[int, float]) -> None:
        """Takes note that a shard has been given so much."""
        self._admit(sorted({index, *weights}))
        weight = weights.get(index, 1.0)
        self._largest = max(self._largest, amount)
        self._given[index] += amount / weight
        owed = _OWED_TURNS * self._largest / min(weights.values(), default=weight)
        least = max(self._given.values()) - owed
        self._given = {other: max(given, least) for other, given in self._given.items()}

    def _admit(self, indices: Sequence[int]) -> None:
        """Puts new shards level with the known one that comes first."""
        level = min((self._given[index] for index in indices if index in self._given), default=0.0)
        for index in indices:
            self._given.setdefault(index, level)


def weights(shards: Mapping[int, TableStats | None], chunk_steps: int) -> dict[int, float]:
    """How much each shard is to be given: in proportion to its capacity, and four times that if it lags behind.

    A shard lags that holds less of its capacity than the fullest one, by more than a twentieth and two chunks: it has
    come late, or died. So what it has room for is filled while the others hardly overwrite anything. Shards that drain
    do not lag, and are not caught up with.

    Args:
      shards: their newest counters; None, or those of an empty capacity, is as large as the others are on average.
      chunk_steps: transitions of a chunk at the most.
    """
    known = {index: stats for index, stats in shards.items() if stats is not None and stats.capacity_steps > 0}
    if not known:
        return dict.fromkeys(shards, 1.0)
    average = sum(stats.capacity_steps for stats in known.values()) / len(known)
    fills = {
        index: stats.num_chunks * chunk_steps / stats.capacity_steps
        for index, stats in known.items()
        if not stats.draining
    }
    fullest = max(fills.values(), default=0.0)

    def weight(index: int) -> float:
        if index not in known:
            return average
        capacity = known[index].capacity_steps
        lag = max(_LAG, _LAG_CHUNKS * chunk_steps / capacity)
        return capacity * (_CATCH_UP if index in fills and fullest - fills[index] > lag else 1.0)

    return {index: weight(index) for index in shards}
