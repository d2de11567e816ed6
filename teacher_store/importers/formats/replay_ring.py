"""From the rows of Dopamine's circular replay buffer to rows of ours. Pure.

Row t of the ring is (frame of observation t, action t, the reward and the terminal that came back). What is different:

- before each episode lie `STACK - 1` rows of padding, all zeros. They are known by their place, after an episode's end
  or at the beginning, and by their content, so that a real row is never taken for padding unless it is as black, which
  is what Dopamine fills a stack with anyway;
- the observation after an episode's last action is never stored. Of one that terminated nobody needs it: it gets a
  copy of its last frame as its final row. Of one that a time limit ended the last row has no outcome that could be
  used; its frame becomes the final observation, and the row before it is the truncated one;
- where the ring has overwritten something, its oldest rows may belong to an episode whose beginning is gone: the first
  `STACK - 1` of them only complete the stacks of those that follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from teacher_store.importers.imported import Rows
from upcycle.experience.chunks import Array

STACK: Final = 4
"""Frames of an observation; Dopamine knows no other number for frames, and writes it nowhere."""


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """The columns of a ring without its frames, N rows from the oldest to the newest.

    Attributes:
      action: int32 [N]; reward: float32 [N].
      terminal: bool [N], the episode terminated after the row.
      ended: bool [N], the episode ended after the row, by terminating or by a time limit.
      is_whole: nothing has been overwritten, so that the oldest row opens an episode.
    """

    action: Array
    reward: Array
    terminal: Array
    ended: Array
    is_whole: bool

    @property
    def num_rows(self) -> int:
        """Rows of ours that it makes, at the most."""
        return len(self.action) + int(np.count_nonzero(self.terminal))


def ring_rows(
    ring: Ring, read_frames: Callable[[Array], None], frame_shape: tuple[int, ...], *, block_rows: int
) -> Iterator[Rows]:
    """The rows of a lane, from the oldest to the newest, in blocks of about `block_rows`.

    Args:
      read_frames: fills an array, uint8 [n, *frame_shape], with the next n frames.
    """
    plan = _Plan(ring)
    block, place = _Block(frame_shape, block_rows), 0
    while place < len(ring.action):
        stop = min(plan.next_bound(place), place + block.room)
        frames = block.next_frames(stop - place)
        read_frames(frames)
        if not plan.is_padding(place, frames):
            plan.keep(place)
            block.take(place, stop, opens=plan.opens(place))
            if plan.terminated[stop - 1]:
                block.add_final()
        place = stop
        if block.room <= 0:
            yield block.rows(plan)
            block = _Block(frame_shape, block_rows)
    if block.num_rows:
        yield block.rows(plan)


class _Plan:
    """What each row of a ring becomes, as far as it can be told without its frame; `is_padding` decides the rest."""

    def __init__(self, ring: Ring) -> None:
        rows = len(ring.action)
        self.action, self.reward = ring.action.copy(), ring.reward.copy()
        self.terminated, self._ended = ring.terminal.copy(), ring.ended
        self.final = ring.ended & ~ring.terminal  # a time limit's last row
        self.truncated = np.zeros(rows, bool)
        self.truncated[:-1] = self.final[1:] & ~ring.ended[:-1]
        self._clear(self.final)
        places = np.arange(rows, dtype=np.int32)
        last_end = np.maximum.accumulate(np.where(ring.ended, places, np.int32(-1)))
        self._age = places - np.concatenate(
            [np.full(1, -1, np.int32), last_end[:-1]]
        )  # 1 for the row after an end, and for the oldest
        empty = (ring.action == 0) & (ring.reward == 0) & ~ring.ended
        self._may_pad = empty & (self._age < STACK)
        bounds = self._may_pad | np.concatenate([[True], (ring.ended | self._may_pad)[:-1]])
        self._bounds = np.flatnonzero(bounds)
        self._opens, self._is_whole = ring.is_whole, ring.is_whole

    def next_bound(self, place: int) -> int:
        """Rows from `place` up to there are of one sort."""
        at = int(np.searchsorted(self._bounds, place, side="right"))
        return int(self._bounds[at]) if at < len(self._bounds) else len(self.action)

    def is_padding(self, place: int, frames: Array) -> bool:
        """Whether the row is padding; rows that may be come one at a time."""
        if not self._may_pad[place] or bool(frames.any()):
            return False
        self._opens = True
        return True

    def keep(self, place: int) -> None:
        """Takes note that a row is none of padding, so that no row after it in its episode can be."""
        later = slice(place + 1, place + STACK)
        self._may_pad[later] &= self._age[later] <= np.arange(1, STACK)[: len(self._age[later])]
        if place == 0 and not self._opens:
            ends = np.flatnonzero(self._ended[: STACK - 1])
            context = np.zeros(len(self.final), bool)
            context[: ends[0] + 1 if len(ends) else STACK - 1] = True
            self.final |= context
            self._clear(context)

    def opens(self, place: int) -> bool:
        """Whether the row, which is kept, opens an episode; asked once for each run of rows, in order."""
        opens = self._opens or (place > 0 and bool(self._ended[place - 1]))
        self._opens = False
        return opens

    def _clear(self, rows: Array) -> None:
        """Takes away the outcome of rows that start no transition."""
        for column in (self.action, self.reward, self.terminated, self.truncated):
            column[rows] = 0


class _Block:
    """Rows on their way out: frames in their places, and where each row came from."""

    def __init__(self, frame_shape: tuple[int, ...], size: int) -> None:
        self._frame = np.empty((size + 1, *frame_shape), np.uint8)  # one more: a final row follows its episode
        self._origin = np.full(size + 1, -1)
        self._first, self._final = np.zeros(size + 1, bool), np.zeros(size + 1, bool)
        self.num_rows = 0

    @property
    def room(self) -> int:
        """Rows that can be taken."""
        return len(self._origin) - 1 - self.num_rows

    def next_frames(self, count: int) -> Array:
        """Where the frames of the next rows belong."""
        return self._frame[self.num_rows : self.num_rows + count]

    def take(self, start: int, stop: int, *, opens: bool) -> None:
        """Keeps rows whose frames are in their places."""
        self._first[self.num_rows] = opens
        rows = slice(self.num_rows, self.num_rows + stop - start)
        self._origin[rows] = np.arange(start, stop)
        self.num_rows = rows.stop

    def add_final(self) -> None:
        """A row for the observation after a terminated episode."""
        self._frame[self.num_rows] = self._frame[self.num_rows - 1]
        self._final[self.num_rows] = True
        self.num_rows += 1

    def rows(self, plan: _Plan) -> Rows:
        """All of them."""
        origin, made = self._origin[: self.num_rows], self._final[: self.num_rows]

        def column(values: Array) -> Array:
            return np.where(made, np.zeros((), values.dtype), values[origin])

        return Rows(
            frame=self._frame[: self.num_rows],
            action=column(plan.action),
            reward=column(plan.reward),
            terminated=column(plan.terminated),
            truncated=column(plan.truncated),
            first=self._first[: self.num_rows],
            final=made | column(plan.final),
        )
