"""Rows of many lanes in, chunks out. Pure: no clock, no environment, no network."""

from typing import Final

import numpy as np

from actors.lanes import LaneRows
from upcycle.experience.chunks import COLUMNS, MAX_PRIORITY, Array, Chunk, ChunkSpec
from upcycle.experience.windows import View

_LEAST_PRIORITY: Final = 1e-6
_OWN_COLUMNS: Final = {
    "final": "bool",  # no transition starts here: a final observation, or the newest row of a closed lane
    "q_taken": "float32",  # Q value of the row's action
    "q_max": "float32",  # largest Q value of the row
}


class ChunkWriter:
    """Cuts the stream of each lane into chunks.

    Every transition (a row whose outcome is known and that does not end an episode) is usable in exactly one chunk,
    where its `priority` is above 0; all other rows have priority 0. The next chunk of a lane begins `spec.steps` rows
    later, so that it repeats `spec.history + spec.lookahead` rows; the history of a lane's first one is zeros.

    Args:
      spec: shape of the chunks.
      lanes: number of lanes.
      rating: view under which each transition gets the priority |n-step TD error| + 1e-6, from the Q values given to
        `push`; None leaves the priority to the table (`MAX_PRIORITY`).
    """

    def __init__(self, spec: ChunkSpec, lanes: int, *, rating: View | None = None) -> None:
        if rating is not None:
            rating.check(spec)
        self._spec, self._rating = spec, rating
        self._capacity = spec.rows + 1  # a chunk is cut once the next row tells the outcome of its last one
        self._frame = np.zeros((lanes, self._capacity, *spec.frame_shape), spec.frame_dtype)
        self._columns = {
            name: np.zeros((lanes, self._capacity), dtype) for name, dtype in (COLUMNS | _OWN_COLUMNS).items()
        }
        # Views with one index for lane and row: writing is twice as fast, and `push` does little else.
        self._flat_frame = self._frame.reshape(-1, *spec.frame_shape)
        self._flat = {name: column.reshape(-1) for name, column in self._columns.items()}
        self._num_rows = np.full(lanes, spec.history)

    def push(
        self, rows: LaneRows, action: Array, *, q_values: Array | None = None, policy_version: int | Array = 0
    ) -> list[Chunk]:
        """Appends the next row of each of M different lanes; returns the chunks they complete, in row order.

        Args:
          rows: as `EnvPoolLanes.recv` returned them.
          action: int [M], sent in these rows.
          q_values: float32 [M, A] of these rows; required with a `rating`.
          policy_version: of the policy that chose the actions, one or [M].
        """
        lane = rows.lane
        row = self._num_rows[lane]
        at = lane * self._capacity + row
        # A lane's first row has no predecessor: zeros are written to a row of padding or, without history, to the spare
        # last row of another lane, which is empty between calls.
        self._flat["reward"][at - 1] = rows.reward
        self._flat["terminated"][at - 1] = rows.terminated
        self._flat["truncated"][at - 1] = rows.truncated
        self._flat_frame[at] = rows.frame
        self._flat["action"][at] = action
        self._flat["first"][at] = rows.first
        self._flat["policy_version"][at] = policy_version
        self._flat["final"][at] = rows.ended
        if q_values is not None:
            self._flat["q_taken"][at] = q_values[np.arange(len(lane)), action]
            self._flat["q_max"][at] = q_values.max(axis=1)
        self._num_rows[lane] = row + 1
        full = row == self._capacity - 1
        return [self._cut(lane, self._spec.rows) for lane in lane[full].tolist()] if full.any() else []

    def flush(self) -> list[Chunk]:
        """Closes all lanes and returns their last chunks, which may be shorter than `spec.rows`.

        The newest row of each lane has no outcome, so it only serves as the bootstrap state of the row before.
        """
        history, chunks = self._spec.history, list[Chunk]()
        for lane in range(len(self._num_rows)):
            newest = int(self._num_rows[lane]) - 1
            if newest < history:
                continue
            self._columns["final"][lane, newest] = True
            for name in ("reward", "terminated", "truncated"):
                self._columns[name][lane, newest] = 0
            while self._num_rows[lane] > history:
                chunks.append(self._cut(lane, min(int(self._num_rows[lane]), self._spec.rows)))
            self._num_rows[lane] = history
        return [chunk for chunk in chunks if chunk.num_transitions(self._spec)]

    def _cut(self, lane: int, num_rows: int) -> Chunk:
        """Copies the lane's oldest `num_rows` rows and advances by `spec.steps`."""
        steps = self._spec.steps
        self._columns["priority"][lane] = self._priorities(lane, num_rows)
        columns = {name: self._columns[name][lane, :num_rows].copy() for name in COLUMNS}
        chunk = Chunk(self._frame[lane, :num_rows].copy(), columns)
        for buffer in (self._frame, *self._columns.values()):
            buffer[lane, : self._capacity - steps] = buffer[lane, steps:]
        self._num_rows[lane] -= steps
        return chunk

    def _priorities(self, lane: int, num_rows: int) -> Array:
        """float64 [capacity], above 0 where a usable row of the first `num_rows` starts a transition."""
        spec, priorities = self._spec, np.zeros(self._capacity)
        start, stop = spec.history, min(spec.history + spec.steps, num_rows)
        usable = slice(start, stop)
        priorities[usable] = MAX_PRIORITY
        if self._rating is not None:
            names = ("reward", "terminated", "truncated", "q_taken", "q_max")
            rated = td_priorities(*(self._columns[name][lane, start:num_rows] for name in names), view=self._rating)
            priorities[usable] = rated[: stop - start]
        priorities[self._columns["final"][lane]] = 0
        return priorities


def td_priorities(
    reward: Array, terminated: Array, truncated: Array, q_taken: Array, q_max: Array, *, view: View
) -> Array:
    """|n-step TD error| + 1e-6 of each of T consecutive rows of a lane, from the Q values of the behaviour policy.

    A truncation inside the horizon shortens it: the true final observation is the bootstrap state. A row whose
    bootstrap state lies past the end, or whose error is not finite, gets `MAX_PRIORITY`.

    Args:
      reward, terminated, truncated: the outcome of each row's action, [T].
      q_taken, q_max: Q value of the row's action, and the largest of the row, float32 [T].
    Returns: float64 [T].
    """
    rows, beyond = len(reward), np.zeros(view.n_step)
    rewards = np.concatenate([np.clip(reward, -1, 1) if view.clip_rewards else reward, beyond])
    values = np.concatenate([q_max, np.full(view.n_step, np.nan)])  # NaN: unknown
    target, alive = np.zeros(rows), np.ones(rows, bool)  # alive: no end seen before step k
    for k in range(view.n_step):
        step = slice(k, k + rows)
        ends = np.concatenate([terminated, beyond > 0])[step] & alive
        cut_off = np.concatenate([truncated, beyond > 0])[step] & alive
        target += np.where(alive, view.gamma**k * rewards[step], 0.0)
        target += np.where(cut_off, view.gamma ** (k + 1) * values[k + 1 : k + 1 + rows], 0.0)
        alive &= ~(ends | cut_off)
    target += np.where(alive, view.gamma**view.n_step * values[view.n_step : view.n_step + rows], 0.0)
    errors = np.abs(target - q_taken) + _LEAST_PRIORITY
    return np.where(np.isfinite(errors), errors, MAX_PRIORITY)
