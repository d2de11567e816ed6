"""Batches on the learner's device, and the buffers that their frames arrive in."""

import queue
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from replay_service.table.types import SampledBatch, TransitionKeys
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
      keys: where the transitions are stored; those of a mixture name their table.
      policy_version: versions of the behaviour policies, int64 [B], on the host.
      annotation: of the observations, float32 [B, annotation_width], 0 where missing; None if no table keeps any.
      annotated: which observations have one, bool [B], on the host to spare a wait for the device; None like
        `annotation`.
      largest_weight: divisor of the importance weights, as in `SampledBatch`.
      copied: happens once the tensors have arrived on the device; None on a CPU. Call `await_copy` before using them.
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
    copied: "torch.cuda.Event | None" = None

    def await_copy(self) -> Self:
        """Orders later work of the current stream behind the copies; the host does not wait. Returns the batch."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.frames.device)
            stream.wait_event(self.copied)
            for tensor in (self.frames, self.action, self.n_step_return, self.discount, self.importance_weights):
                tensor.record_stream(stream)  # keeps the allocator of the copy stream from reusing its memory too early
            if self.annotation is not None:
                self.annotation.record_stream(stream)
        return self


class FrameBuffers:
    """Reusable host memory for the frames of batches: fresh memory costs a page fault every 4 KiB. Thread-safe.

    On a CPU a batch's frames are the buffer itself until `release`. For CUDA the buffer is pinned, copied on a stream
    of its own, so that copies need not queue behind the learner's steps, and released when its copy is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
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
        """Makes a buffer reusable, once `copied` has happened."""
        self._free.put((frames, copied))

    def to_batch(self, sampled: SampledBatch, view: View) -> Batch:
        """Copies a sampled batch to the device: uint8 frames stay uint8, and each frame is copied once."""

        def move(array: Array) -> Tensor:
            return torch.from_numpy(array).to(self._device, non_blocking=True)

        windows, copied = sampled.windows, None
        with nullcontext() if self._copies is None else torch.cuda.stream(self._copies):
            frames = move(windows.frames)  # [B, stack + n, ...]
            action, n_step_return, discount = map(move, (windows.action, windows.n_step_return, windows.discount))
            importance_weights = move(sampled.importance_weights)
            annotation = None if sampled.annotation is None else move(sampled.annotation)
        if self._copies is not None:
            copied = torch.cuda.Event()
            copied.record(self._copies)
            self.release(torch.from_numpy(windows.frames), copied)
        return Batch(
            observation=frames[:, : view.stack],
            next_observation=frames[:, view.n_step :],
            action=action,
            n_step_return=n_step_return,
            discount=discount,
            importance_weights=importance_weights,
            keys=sampled.keys,
            policy_version=sampled.policy_version,
            frames=frames,
            annotation=annotation,
            annotated=sampled.annotated,
            largest_weight=sampled.largest_weight,
            copied=copied,
        )
