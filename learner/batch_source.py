"""Batches from replay, fetched ahead; priorities back to replay. All replay traffic of the learner is here.

    fetch thread:  replay.sample (several batches a request) -> bounded queue -> learner.next()
    write thread:  learner.write_back(keys, priorities) -> bounded queue -> replay.update_priorities (several a request)

A request has a cost of its own whatever its size, which is why batches share one. The fetch thread
waits when the queue is full, the learner when it is empty; write-backs that find a full queue are dropped and counted
(they are hints, and late ones would be dropped by the shard anyway).
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from replay_service.sharding import ReplayTimeout, SampledBatch, TransitionKeys
from upcycle.chunks import Array
from upcycle.windows import View, Windows

_WAIT_SECONDS = 0.5  # the longest either thread goes without looking at the stop flag


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B transitions on the learner's device.

    Attributes:
      observation, next_observation: views of one window tensor, [B, stack, *frame_shape].
      action: int64 [B].
      n_step_return, discount, importance_weights: float32 [B].
      keys: where the transitions came from.
      policy_version: int64 [B], on the host: the behaviour policies' versions.
    """

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    n_step_return: Tensor
    discount: Tensor
    importance_weights: Tensor
    keys: TransitionKeys
    policy_version: Array


def split(sampled: SampledBatch, num_batches: int, rng: np.random.Generator) -> Iterator[SampledBatch]:
    """Deals one draw out to batches of equal size, as if each had been drawn by itself.

    Transitions are shuffled first: a stratified draw is ordered, and a part of it would be a part of the table. Each
    batch's importance weights are divided by its own largest one.
    """
    windows, keys = sampled.windows, sampled.keys
    for part in np.array_split(rng.permutation(len(sampled.probabilities)), num_batches):
        weights = sampled.importance_weights[part]
        yield SampledBatch(
            windows=Windows(
                frames=windows.frames[part],
                action=windows.action[part],
                n_step_return=windows.n_step_return[part],
                discount=windows.discount[part],
            ),
            keys=TransitionKeys(keys.shard[part], keys.slot[part], keys.offset[part], keys.generation[part]),
            probabilities=sampled.probabilities[part],
            importance_weights=weights / weights.max(),
            policy_version=sampled.policy_version[part],
        )


def to_batch(sampled: SampledBatch, view: View, device: torch.device) -> Batch:
    """Moves a sampled batch to `device` as it is: uint8 frames stay uint8, and each frame travels once."""
    pin = device.type == "cuda"

    def move(array: Array) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if pin else tensor

    frames = move(sampled.windows.frames)  # [B, stack + n, ...]
    return Batch(
        observation=frames[:, : view.stack],
        next_observation=frames[:, view.n_step :],
        action=move(sampled.windows.action),
        n_step_return=move(sampled.windows.n_step_return),
        discount=move(sampled.windows.discount),
        importance_weights=move(sampled.importance_weights),
        keys=sampled.keys,
        policy_version=sampled.policy_version,
    )


class Replay(Protocol):
    """The part of the sharded replay client that batches need."""

    def sample(
        self, table: str, batch_size: int, *, view: View, importance_sampling_exponent: float, timeout_seconds: float
    ) -> SampledBatch:
        """Raises ReplayTimeout when the limiter or the shards gave nothing in time."""
        ...

    def update_priorities(self, table: str, keys: TransitionKeys, priorities: Array) -> None:
        """Best effort."""
        ...


class BatchSource:
    """Prefetched batches of one table. Use as a context manager: both threads are joined on leaving.

    Raises: whatever the fetch thread died of, from `next`.
    """

    def __init__(
        self,
        replay: Replay,
        table: str,
        *,
        batch_size: int,
        view: View,
        importance_sampling_exponent: float,
        prefetch_batches: int,
        batches_per_request: int,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self._replay, self._table, self._view, self._device, self._rng = replay, table, view, device, rng
        self._batch_size, self._exponent = batch_size, importance_sampling_exponent
        self._per_request = batches_per_request
        self._batches: queue.Queue[Batch] = queue.Queue(maxsize=prefetch_batches)
        self._updates: queue.Queue[tuple[TransitionKeys, Array]] = queue.Queue(maxsize=2 * prefetch_batches)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.dropped_updates = 0
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=f"batches-{work.__name__}", daemon=True)
            for work in (self._fetch, self._write)
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
        """The next batch, or None if there was none in time (the limiter holds sampling back, or shards are away)."""
        deadline = time.monotonic() + timeout_seconds
        while self._failure is None:
            try:
                return self._batches.get(timeout=max(0.0, min(_WAIT_SECONDS, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
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
                sampled = self._replay.sample(
                    self._table,
                    self._batch_size * self._per_request,
                    view=self._view,
                    importance_sampling_exponent=self._exponent,
                    timeout_seconds=_WAIT_SECONDS,
                )
            except ReplayTimeout:
                continue
            for batch in split(sampled, self._per_request, self._rng):
                self._put(to_batch(batch, self._view, self._device))

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
                self._replay.update_priorities(self._table, _join(keys), np.concatenate(priorities))

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
    )


class _Work(Protocol):
    __name__: str

    def __call__(self) -> None: ...
