"""Batches on the learner's device, and the memory that their frames are copied to."""

import queue
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from replay_service.client.sharded_replay import SampledBatch, TransitionKeys
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B transitions on the learner's device.

    Attributes:
      frames: the windows, [B, stack + n_step, *frame_shape].
      observation, next_observation: views of them, [B, stack, *frame_shape].
      action: int64 [B].
      n_step_return, discount, importance_weights: float32 [B].
      keys: where the transitions came from; of a mixture they say from which table.
      policy_version: int64 [B], on the host: the behaviour policies' versions.
      annotation: of the observations, float32 [B, annotation_width], 0 where there is none; None if no table of the
        batch keeps any.
      annotated: which observations have one, bool [B], on the host, so that reading it does not wait for the device;
        None like `annotation`.
      largest_weight: what the importance weights were divided by, see `SampledBatch`.
    """

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    n_step_return: Tensor
    discount: Tensor
    importance_weights: Tensor
    keys: TransitionKeys
    policy_version: Array
    frames: Tensor
    annotation: Tensor | None = None
    annotated: Array | None = None
    largest_weight: float = 1.0


class FrameBuffers:
    """Memory for the frames of batches, used again and again: fresh memory costs a page fault every 4 KiB.

    On a CPU a batch's frames are the buffer itself, and `release` says when they are done with. For CUDA the buffer
    is pinned, copied to the device while the next one is filled, and comes back by itself when the copy is done.
    Thread-safe.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: queue.SimpleQueue[tuple[Tensor, torch.cuda.Event | None]] = queue.SimpleQueue()

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A buffer of this shape and dtype."""
        with suppress(queue.Empty):
            while True:
                buffer, copied = self._free.get_nowait()
                if buffer.shape == shape and buffer.numpy().dtype == np.dtype(dtype):
                    if copied is not None:
                        copied.synchronize()
                    return buffer.numpy()
        if self._device.type == "cuda":
            return torch.from_numpy(np.empty(shape, dtype)).pin_memory().numpy()
        return np.empty(shape, dtype)

    def release(self, frames: Tensor, copied: "torch.cuda.Event | None" = None) -> None:
        """Lets a buffer be used again, once `copied` has happened."""
        self._free.put((frames, copied))

    def to_batch(self, sampled: SampledBatch, view: View) -> Batch:
        """Moves a sampled batch to the device as it is: uint8 frames stay uint8, and each frame travels once."""

        def move(array: Array) -> Tensor:
            return torch.from_numpy(array).to(self._device, non_blocking=True)

        host = torch.from_numpy(sampled.windows.frames)
        frames = host.to(self._device, non_blocking=True)  # [B, stack + n, ...]
        if self._device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
            self.release(host, copied)
        return Batch(
            observation=frames[:, : view.stack],
            next_observation=frames[:, view.n_step :],
            action=move(sampled.windows.action),
            n_step_return=move(sampled.windows.n_step_return),
            discount=move(sampled.windows.discount),
            importance_weights=move(sampled.importance_weights),
            keys=sampled.keys,
            policy_version=sampled.policy_version,
            frames=frames,
            annotation=None if sampled.annotation is None else move(sampled.annotation),
            annotated=sampled.annotated,
            largest_weight=sampled.largest_weight,
        )
