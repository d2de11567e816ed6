"""Raw returns and lengths of the episodes played in each lane."""

from dataclasses import dataclass

import numpy as np

from actors.lanes import LaneRows


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished game.

    Attributes:
      lane: where it was played.
      raw_return: sum of its unclipped rewards.
      length: agent steps.
    """

    lane: int
    raw_return: float
    length: int


class EpisodeTracker:
    """Sums rewards per lane; a lost life does not end an episode here."""

    def __init__(self, lanes: int) -> None:
        self._return = np.zeros(lanes, np.float64)
        self._length = np.zeros(lanes, np.int64)

    def update(self, rows: LaneRows) -> list[Episode]:
        """Adds the next rows; returns the episodes that they end, in the order of the rows."""
        self._return[rows.lane] += rows.reward
        self._length[rows.lane] += ~rows.first
        ended: list[Episode] = []
        for lane in rows.lane[rows.game_over]:
            ended.append(Episode(int(lane), float(self._return[lane]), int(self._length[lane])))
            self._return[lane] = self._length[lane] = 0
        return ended
