"""Prefetches batches from replay and sends priorities and annotations back: all of the learner's bulk traffic.

    fetch threads: replay.sample (several batches at once) -> bounded queue -> learner.next()
    write thread:  learner.write_back, annotate -> bounded queue -> replay.update_priorities, annotate (several at once)

Each request has a fixed cost, so several batches share one. A fetch thread waits when its queue is full, the learner
when it is empty. Writes that find their queue full are dropped and counted: priorities are hints, and the shard would
drop late ones anyway; a state without an annotation gets one when it is drawn again.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from learner.batches import Batch, FrameBuffers
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, TransitionKeys
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View

_WAIT_SECONDS = 0.5  # the longest a thread goes without checking the stop flag

_Write = tuple[Literal["priorities", "annotations"], TransitionKeys, Array]


class Replay(Protocol):
    """The part of the sharded replay client that batches need."""

    def sample(self, request: SampleRequest) -> list[SampledBatch]:
        """Raises: ReplayTimeout if the limiter or the shards yield nothing in time."""
        ...

    def update_priorities(self, table: str | None, keys: TransitionKeys, priorities: Array) -> None:
        """Best effort. For keys of a mixture, which name their tables, `table` is None."""
        ...

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        """Stores values, float32 [B, annotation_width], beside states; returns how many states still existed."""
        ...


class BatchSource:
    """Prefetched batches of one table or a mixture. A context manager: leaving it joins all threads.

    Args:
      table: the table, or the share of each table in every batch, summing to 1.
      requests_in_flight: fetch threads; with one, or with a seed, batches arrive in the order of their draws.
      seed: makes each batch of an unchanging table a function of the seed, its number and the sizes alone.
      first_batch: number of the first batch, from 0; above 0 when it continues an earlier source.
    Attributes:
      dropped_updates, dropped_annotations: calls of `write_back` and `annotate` that found a full queue.
      last_timeout: why the newest request timed out; None if it succeeded.
    Raises: from `next`, the error that ended a fetch thread.
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
        seed: int | None = None,
        first_batch: int = 0,
    ) -> None:
        self._replay, self._table, self._view = replay, table, view
        self._batch_size, self._exponent = batch_size, importance_sampling_exponent
        self._per_request, self._seed, self._first_batch = batches_per_request, seed, first_batch
        self._next_request = self._next_delivery = first_batch // batches_per_request
        self._delivering = threading.Condition()  # guards the two numbers; notified at each delivery
        self._buffers, self._in_use = FrameBuffers(device), list[Tensor]()
        self._on_host = device.type == "cpu"
        self._batches: queue.Queue[Batch] = queue.Queue(maxsize=prefetch_batches)
        self._writes: queue.Queue[_Write] = queue.Queue(maxsize=2 * prefetch_batches)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.last_timeout: ReplayTimeout | None = None
        self.dropped_updates = self.dropped_annotations = 0
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
        """The next batch; None if the limiter or absent shards held it back for too long.

        This reuses the memory of the previous batch's frames.
        """
        deadline = time.monotonic() + timeout_seconds
        while self._in_use:
            self._buffers.release(self._in_use.pop())
        while self._failure is None:
            try:
                batch = self._batches.get(timeout=max(0.0, min(_WAIT_SECONDS, deadline - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return None
                continue
            if self._on_host:
                self._in_use.append(batch.frames)
            return batch.await_copy()
        raise self._failure

    def write_back(self, keys: TransitionKeys, priorities: Array) -> None:
        """Queues new priorities, float [B]; never waits."""
        try:
            self._writes.put_nowait(("priorities", keys, priorities))
        except queue.Full:
            self.dropped_updates += 1

    def annotate(self, keys: TransitionKeys, values: Array) -> None:
        """Queues annotations of states, float32 [B, annotation_width]; never waits."""
        try:
            self._writes.put_nowait(("annotations", keys, values))
        except queue.Full:
            self.dropped_annotations += 1

    def _fetch(self) -> None:
        while not self._stop.is_set():
            with self._delivering:
                number = self._next_request
                self._next_request += 1
            sampled = self._sample(number)
            num_skipped = max(self._first_batch - number * self._per_request, 0)
            for batch in sampled[:num_skipped]:
                self._buffers.release(torch.from_numpy(batch.windows.frames))
            self._await_turn(number)
            for batch in sampled[num_skipped:]:
                self._put(self._buffers.to_batch(batch, self._view))
            with self._delivering:
                self._next_delivery = number + 1
                self._delivering.notify_all()

    def _await_turn(self, number: int) -> None:
        """With a seed, waits until the batches of all earlier requests are in the queue."""
        with self._delivering:
            while self._seed is not None and self._next_delivery < number and not self._stop.is_set():
                self._delivering.wait(_WAIT_SECONDS)

    def _sample(self, number: int) -> list[SampledBatch]:
        """The batches of one request, retried until they arrive; none if the source is closed first."""
        request = SampleRequest(
            tables=self._table,
            batch_size=self._batch_size,
            num_batches=self._per_request,
            view=self._view,
            importance_sampling_exponent=self._exponent,
            timeout_seconds=_WAIT_SECONDS,
            allocate=self._buffers.take,
            draw_seed=None if self._seed is None else request_seed(self._seed, number),
        )
        while not self._stop.is_set():
            try:
                sampled = self._replay.sample(request)
            except ReplayTimeout as timeout:
                self.last_timeout = timeout
            else:
                self.last_timeout = None
                return sampled
        return []

    def _put(self, batch: Batch) -> None:
        while not self._stop.is_set():
            try:
                return self._batches.put(batch, timeout=_WAIT_SECONDS)
            except queue.Full:
                continue

    def _write(self) -> None:
        table = self._table if isinstance(self._table, str) else None
        while not self._stop.is_set():
            writes = self._take_writes()
            for kind, send in (("priorities", self._replay.update_priorities), ("annotations", self._replay.annotate)):
                parts = [(keys, values) for name, keys, values in writes if name == kind]
                if parts:
                    keys, values = zip(*parts, strict=True)
                    send(table, _join(keys), np.concatenate(values))

    def _take_writes(self) -> list[_Write]:
        """Up to `batches_per_request` writes, in order; fewer after a timeout."""
        writes = list[_Write]()
        with suppress(queue.Empty):
            while len(writes) < self._per_request:
                writes.append(self._writes.get(timeout=_WAIT_SECONDS))
        return writes

    def _guard(self, work: "_Work") -> None:
        try:
            work()
        except Exception as error:
            self._failure = error


def request_seed(seed: int, number: int) -> int:
    """The seed of request `number`, in [0, 2^63): unrelated between requests and between seeds."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def _join(keys: Sequence[TransitionKeys]) -> TransitionKeys:
    return TransitionKeys(
        shard=np.concatenate([part.shard for part in keys]),
        slot=np.concatenate([part.slot for part in keys]),
        offset=np.concatenate([part.offset for part in keys]),
        generation=np.concatenate([part.generation for part in keys]),
        table=np.concatenate([part.table for part in keys if part.table is not None]) if keys[0].tables else None,
        tables=keys[0].tables,
    )


class _Work(Protocol):
    __name__: str

    def __call__(self) -> None: ...
