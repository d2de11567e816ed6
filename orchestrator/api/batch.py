"""Transitions as NumPy arrays."""

from dataclasses import dataclass

from upcycle.experience.chunks import Array
from upcycle.experience.windows import View, Windows


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B transitions.

    Attributes:
      observation: [B, stack, *frame_shape], oldest frame first.
      action: int64 [B].
      n_step_return: float32 [B], sum of gamma^k r_k over n steps, or to the end of the episode.
      discount: float32 [B], gamma^n, or 0 where the episode terminated; a time limit does not terminate.
      next_observation: [B, stack, *frame_shape], n steps later; arbitrary where `discount` is 0.
    """

    observation: Array
    action: Array
    n_step_return: Array
    discount: Array
    next_observation: Array


def batch_of_windows(windows: Windows, view: View) -> Batch:
    """The transitions of windows that were gathered with `view`; observations share the frames' memory."""
    return Batch(
        observation=windows.frames[:, : view.stack],
        action=windows.action,
        n_step_return=windows.n_step_return,
        discount=windows.discount,
        next_observation=windows.frames[:, view.n_step :],
    )
