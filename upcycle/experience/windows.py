"""Views of chunks: the rows that start a transition, and the windows that a learner trains on.

n-step length, frame stack, discount and reward clipping belong to the view, which is chosen when sampling, not to the
stored chunk. A transition that starts at row t is the window of rows [t - stack + 1, t + n_step]: its
first `stack` frames are the observation, its last `stack` frames the next observation.

Valid starts (algorithm notes: Nature DQN's n-step target; time limits are not terminal states):
  - an episode that terminates inside the window makes it shorter: discount 0, nothing is bootstrapped;
  - of the windows before a truncation only the one that ends exactly at the true final observation is valid, and it
    bootstraps with gamma^n like any other;
  - a window that runs past the rows of its chunk is not valid.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from upcycle.experience import kernels
from upcycle.experience.chunks import Array, ChunkSpec

if TYPE_CHECKING:  # keeps pydantic out of the shards
    from upcycle.config.run import RunConfig

StackFill = Literal["first_frame", "zeros"]


@dataclass(frozen=True, slots=True)
class View:
    """How a sampler interprets stored chunks.

    Attributes:
      n_step: horizon of the return, in agent steps, 1 <= n_step <= spec.lookahead.
      stack: frames of one observation, 1 <= stack <= spec.history + 1.
      gamma: per-step discount.
      clip_rewards: clip each step's reward to [-1, 1] before summing.
      stack_fill: what replaces frames from before the start of the episode.
    """

    n_step: int = 3
    stack: int = 4
    gamma: float = 0.99
    clip_rewards: bool = True
    stack_fill: StackFill = "first_frame"

    @classmethod
    def of_run(cls, config: "RunConfig", spec: ChunkSpec) -> "View":
        """The view of a run's learner; vectors are not stacked."""
        return cls(
            n_step=config.learner.n_step,
            stack=config.env.frame_stack if len(spec.frame_shape) > 1 else 1,
            gamma=config.learner.gamma,
            clip_rewards=config.env.clip_rewards,
            stack_fill=config.env.stack_fill,
        )

    def check(self, spec: ChunkSpec) -> None:
        """Raises: ValueError if chunks of `spec` do not support this view."""
        if not 1 <= self.n_step <= spec.lookahead:
            raise ValueError(f"n_step {self.n_step}: these chunks carry at most {spec.lookahead} rows of lookahead")
        if not 1 <= self.stack <= spec.history + 1:
            raise ValueError(f"stack {self.stack}: these chunks carry {spec.history} frames of history")


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """A batch of transitions as windows.

    Attributes:
      frames: [B, stack + n_step, *frame_shape]; observation = [:, :stack], next observation = [:, n_step:].
      action: int64 [B].
      n_step_return: float32 [B], sum of gamma^k r_k up to the end of the window or of the episode.
      discount: float32 [B], gamma^n_step, or 0 where the episode terminated inside the window.
    """

    frames: Array
    action: Array
    n_step_return: Array
    discount: Array


def valid_starts(spec: ChunkSpec, columns: dict[str, Array], num_rows: Array, n_step: int) -> Array:
    """Which usable rows start a valid `n_step` transition.

    Args:
      columns: `terminated`, `truncated` bool [S, rows] and `priority` float [S, rows] of S padded chunks.
      num_rows: int [S], rows of each chunk without padding.
    Returns: bool [S, steps].
    """
    terminated, truncated = columns["terminated"], columns["truncated"]
    rows_left = num_rows[:, None] - np.arange(spec.history, spec.history + spec.steps)  # from each start on
    alive = np.ones(rows_left.shape, bool)  # no end seen before step k
    valid = np.zeros_like(alive)
    for k in range(n_step):
        step = slice(spec.history + k, spec.history + k + spec.steps)
        valid |= alive & (rows_left > k) & terminated[:, step]
        if k == n_step - 1:
            # The bootstrap state must exist; after a truncation it is the true final observation.
            valid |= alive & (rows_left > n_step)
        alive &= ~(terminated[:, step] | truncated[:, step])
    return valid & (columns["priority"][:, spec.history : spec.history + spec.steps] > 0)


def gather_windows(
    spec: ChunkSpec, frame: Array, columns: dict[str, Array], slots: Array, offsets: Array, view: View
) -> Windows:
    """Copies the windows of transitions (slot, offset) out of padded chunks.

    Args: as for `gather_frames`; `columns` also has `action`, `reward` and `terminated`.
    """
    frames = np.empty((len(slots), view.stack + view.n_step, *spec.frame_shape), frame.dtype)
    gather_frames(spec, frame, columns, slots, offsets, view, out=frames)
    return Windows(frames, *window_values(spec, columns, slots, offsets, view))


def gather_frames(
    spec: ChunkSpec,
    frame: Array,
    columns: dict[str, Array],
    slots: Array,
    offsets: Array,
    view: View,
    *,
    out: Array,
) -> None:
    """Copies the frames of windows out of padded chunks.

    Args:
      frame: C-contiguous [S, rows, *frame_shape].
      columns: `first`, [S, rows].
      slots, offsets: int64 [B]; offset counts usable rows of the slot, from 0.
      view: one that passes `View.check` for `spec`.
      out: C-contiguous [B, stack + n_step, *frame_shape].
    Guarantee: for a valid start the observation equals what the behaviour policy saw; frames of a next observation
    that lies past the end of its episode are arbitrary and carry discount 0.
    """
    # Such a view never reaches past the rows of a chunk, so a window is one contiguous piece of its slot.
    begins = slots * spec.rows + offsets + (spec.history + 1 - view.stack)
    kernels.copy_pieces(frame.reshape(-1).view(np.uint8), begins * spec.frame_bytes, out)
    fill_stacks(out, num_padded_frames(spec, columns, slots, offsets, view), view)


def window_rows(spec: ChunkSpec, offsets: Array, view: View) -> Array:
    """Rows of the chunks that the windows cover, int64 [B, stack + n_step]."""
    return np.minimum((offsets + spec.history)[:, None] + np.arange(1 - view.stack, view.n_step + 1), spec.rows - 1)


def window_values(
    spec: ChunkSpec, columns: dict[str, Array], slots: Array, offsets: Array, view: View
) -> tuple[Array, Array, Array]:
    """The action, n_step_return and discount of each window, as in `Windows`."""
    steps = slots[:, None] * spec.rows + window_rows(spec, offsets, view)[:, view.stack - 1 : -1]  # t .. t + n_step - 1
    reward = columns["reward"].reshape(-1)[steps].astype(np.float64)
    if view.clip_rewards:
        np.clip(reward, -1.0, 1.0, out=reward)
    terminated = columns["terminated"].reshape(-1)[steps]
    ended_before = np.cumsum(terminated, axis=1) - terminated > 0
    gammas = view.gamma ** np.arange(view.n_step)
    return (
        columns["action"].reshape(-1)[steps[:, 0]].astype(np.int64),
        np.where(ended_before, 0.0, reward * gammas).sum(axis=1).astype(np.float32),
        np.where(terminated.any(axis=1), 0.0, view.gamma**view.n_step).astype(np.float32),
    )


def num_padded_frames(spec: ChunkSpec, columns: dict[str, Array], slots: Array, offsets: Array, view: View) -> Array:
    """Number of leading frames of each window from before its episode, int64 [B]."""
    rows = slots[:, None] * spec.rows + window_rows(spec, offsets, view)[:, : view.stack]
    first = columns["first"].reshape(-1)[rows]
    # If several episodes start within the stack, the newest counts.
    return np.where(first.any(axis=1), view.stack - 1 - np.argmax(first[:, ::-1], axis=1), 0)


def fill_stacks(frames: Array, num_padded: Array, view: View) -> None:
    """Replaces, in place, the first num_padded[b] frames of each window, [B, stack + n_step, *frame_shape]."""
    for b in np.flatnonzero(num_padded):
        first = num_padded[b]
        frames[b, :first] = 0 if view.stack_fill == "zeros" else frames[b, first]
