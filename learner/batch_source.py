"""Batches from replay, fetched ahead; priorities back to replay. All replay traffic of the learner is here.

    fetch threads: replay.sample_batches (several at once) -> bounded queue -> learner.next()
    write thread:  learner.write_back(keys, priorities) -> bounded queue -> replay.update_priorities (several a request)

A request has a cost of its own whatever its size, which is why batches share one. A fetch thread
waits when the queue is full, the learner when it is empty; write-backs that find a full queue are dropped and counted
(they are hints, and late ones would be dropped by the shard anyway).
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypedDict

import numpy as np
import torch
from torch import Tensor

from replay_service.sharding import ReplayTimeout, SampledBatch, TransitionKeys
from upcycle.chunks import Array
from upcycle.windows import View

_WAIT_SECONDS = 0.5  # the longest either thread goes without looking at the stop flag


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
      annotated: which observations have one, bool [B]; None like `annotation`.
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
    annotated: Tensor | None = None


class FrameBuffers:
    """Memory for the frames of batches, used again and again: fresh memory costs a page fault every 4 KiB.

    On a CPU a batch's frames are the buffer itself, and `give_back` says when they are done with. For CUDA the buffer
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

    def give_back(self, frames: Tensor, copied: "torch.cuda.Event | None" = None) -> None:
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
            self.give_back(host, copied)
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
            annotated=None if sampled.annotated is None else move(sampled.annotated),
        )


class Replay(Protocol):
    """The part of the sharded replay client that batches need."""

    def sample_batches(
        self,
        table: str,
        batch_size: int,
        num_batches: int,
        *,
        view: View,
        importance_sampling_exponent: float,
        timeout_seconds: float,
        allocate: Callable[[tuple[int, ...], str], Array],
    ) -> list[SampledBatch]:
        """Raises ReplayTimeout when the limiter or the shards gave nothing in time."""
        ...

    def sample_mixture(
        self,
        shares: Mapping[str, float],
        batch_size: int,
        num_batches: int,
        *,
        view: View,
        importance_sampling_exponent: float,
        timeout_seconds: float,
        allocate: Callable[[tuple[int, ...], str], Array],
    ) -> list[SampledBatch]:
        """The same of several tables, each giving its share of every batch."""
        ...

    def update_priorities(self, table: str | None, keys: TransitionKeys, priorities: Array) -> None:
        """Best effort. Keys of a mixture name their tables, and `table` is None."""
        ...


class BatchSource:
    """Prefetched batches of one table, or of a mixture. Use as a context manager: all threads are joined on leaving.

    Args:
      table: which one; or the share of each table in every batch, summing to 1.
      requests_in_flight: fetch threads; with one, batches come in the order in which they were drawn.
    Raises: whatever a fetch thread died of, from `next`.
    """

    def __init__(
        self,
        replay: Replay,
        table: str | Mapping[str, float],
        *,
        batch_size: int,
        view: View,
        importance_sampling_exponent: float,
        prefetch_batches: int,
        batches_per_request: int,
        requests_in_flight: int = 1,
        device: torch.device,
    ) -> None:
        self._replay, self._table, self._view = replay, table, view
        self._batch_size, self._exponent = batch_size, importance_sampling_exponent
        self._per_request = batches_per_request
        self._buffers, self._in_use = FrameBuffers(device), list[Tensor]()
        self._on_host = device.type == "cpu"
        self._batches: queue.Queue[Batch] = queue.Queue(maxsize=prefetch_batches)
        self._updates: queue.Queue[tuple[TransitionKeys, Array]] = queue.Queue(maxsize=2 * prefetch_batches)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.dropped_updates = 0
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=f"batches-{work.__name__}", daemon=True)
            for work in (*[self._fetch] * requests_in_flight, self._write)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def next(self, timeout_seconds: float) -> Batch | None:
        """The next batch, or None if there was none in time (the limiter holds sampling back, or shards are away).

        The frames of the batch before are done with: their memory is used again.
        """
        deadline = time.monotonic() + timeout_seconds
        while self._in_use:
            self._buffers.give_back(self._in_use.pop())
        while self._failure is None:
            try:
                batch = self._batches.get(timeout=max(0.0, min(_WAIT_SECONDS, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
                continue
            if self._on_host:
                self._in_use.append(batch.frames)
            return batch
        raise self._failure

    def write_back(self, keys: TransitionKeys, priorities: Array) -> None:
        """Sends new priorities, float [B]; never waits."""
        try:
            self._updates.put_nowait((keys, priorities))
        except queue.Full:
            self.dropped_updates += 1

    def _fetch(self) -> None:
        while not self._stop.is_set():
            try:
                batches = self._sample()
            except ReplayTimeout:
                continue
            for sampled in batches:
                self._put(self._buffers.to_batch(sampled, self._view))

    def _sample(self) -> list[SampledBatch]:
        table, sizes = self._table, (self._batch_size, self._per_request)
        options = _SampleOptions(
            view=self._view,
            importance_sampling_exponent=self._exponent,
            timeout_seconds=_WAIT_SECONDS,
            allocate=self._buffers.take,
        )
        if isinstance(table, str):
            return self._replay.sample_batches(table, *sizes, **options)
        return self._replay.sample_mixture(table, *sizes, **options)

    def _put(self, batch: Batch) -> None:
        while not self._stop.is_set():
            try:
                return self._batches.put(batch, timeout=_WAIT_SECONDS)
            except queue.Full:
                continue

    def _write(self) -> None:
        while not self._stop.is_set():
            if updates := self._take_updates():
                keys, priorities = zip(*updates, strict=True)
                table = self._table if isinstance(self._table, str) else None
                self._replay.update_priorities(table, _join(keys), np.concatenate(priorities))

    def _take_updates(self) -> list[tuple[TransitionKeys, Array]]:
        """The next few write-backs, in order; fewer if they do not come in time."""
        updates: list[tuple[TransitionKeys, Array]] = []
        with suppress(queue.Empty):
            while len(updates) < self._per_request:
                updates.append(self._updates.get(timeout=_WAIT_SECONDS))
        return updates

    def _guard(self, work: "_Work") -> None:
        try:
            work()
        except Exception as error:
            self._failure = error


def _join(keys: Sequence[TransitionKeys]) -> TransitionKeys:
    return TransitionKeys(
        shard=np.concatenate([part.shard for part in keys]),
        slot=np.concatenate([part.slot for part in keys]),
        offset=np.concatenate([part.offset for part in keys]),
        generation=np.concatenate([part.generation for part in keys]),
        table=np.concatenate([part.table for part in keys if part.table is not None]) if keys[0].tables else None,
        tables=keys[0].tables,
    )


class _SampleOptions(TypedDict):
    view: View
    importance_sampling_exponent: float
    timeout_seconds: float
    allocate: Callable[[tuple[int, ...], str], Array]


class _Work(Protocol):
    __name__: str

    def __call__(self) -> None: ...
