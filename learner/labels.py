"""What the teachers think of stored states: computed once for each state, and kept beside it in replay.

offline: one pass over the table `teacher`, before its first batch
online:  for the states of a batch that nobody has labelled yet
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import structlog
import torch
from torch import Tensor

from learner.batches import Batch
from learner.readback import Readback
from replay_service.scanning import ScanIncomplete
from replay_service.sharding import ScannedBatch, TransitionKeys
from teacher_store.teacher import Teacher
from upcycle.chunks import Array
from upcycle.metrics import Metrics
from upcycle.runtime import StopSignal
from upcycle.windows import View

_log = structlog.get_logger(__name__)

_SCAN_BATCH = 256
_SCAN_SECONDS = 30.0
_PASSES = 5


class Annotates(Protocol):
    """The part of the sharded replay client that labels need."""

    def scan(
        self, table: str, batch_size: int, *, view: View, only_missing: bool, timeout_seconds: float
    ) -> Iterator[ScannedBatch]:
        """Each stored transition once, in an order that depends on the table alone."""
        ...

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        """Best effort; returns how many states now have one."""
        ...


class TakesLabels(Protocol):
    """Where new labels of a batch go."""

    def annotate(self, keys: TransitionKeys, values: Array) -> None:
        """Best effort; never waits."""
        ...


class TeacherLabels:
    """Q values of K teachers, float32: at temperature 0.1 a half precision's steps near 10 would show.

    Attributes:
      num_states: states that the teachers' networks have been given so far.
    """

    def __init__(self, teachers: Sequence[Teacher], device: torch.device, metrics: Metrics) -> None:
        self._teachers, self._device, self._metrics = list(teachers), device, metrics
        self._readback = Readback(device)
        self.num_states = 0

    def annotate_table(
        self, replay: Annotates, table: str, view: View, stop: StopSignal, *, rank: int = 0, ranks: int = 1
    ) -> None:
        """Labels every stored state of a table that has no label yet.

        The states are taken in batches that depend on the table alone, whatever is labelled already: the same state
        gets the same value to the last bit, however often this was interrupted. Of several ranks each does its share.
        After a shard was lost for good, or `stop`, the rest is left to `of`.
        """
        for _ in range(_PASSES):
            try:
                scan = replay.scan(table, _SCAN_BATCH, view=view, only_missing=False, timeout_seconds=_SCAN_SECONDS)
                for number, batch in enumerate(scan):
                    if stop.is_set():
                        return
                    assert batch.annotated is not None, f"table {table!r} keeps no annotations"
                    if number % ranks == rank and not batch.annotated.all():
                        frames = torch.from_numpy(batch.windows.frames)[:, : view.stack].to(self._device)
                        replay.annotate(table, batch.keys, self._compute(frames).cpu().numpy())
                return
            except ScanIncomplete as error:
                _log.warning("labels_incomplete", table=table, reason=str(error))

    def of(self, batch: Batch, source: TakesLabels) -> Tensor:
        """Q values of a batch's observations, float32 [B, K, A]; new ones go to `source` as well."""
        self._readback.poll()
        num_teachers, rows = len(self._teachers), len(batch.action)
        if batch.annotation is None or batch.annotated is None:
            return self._compute(batch.observation).view(rows, num_teachers, -1)
        missing = np.flatnonzero(~batch.annotated)
        if not len(missing):
            return batch.annotation.view(rows, num_teachers, -1)
        index = torch.from_numpy(missing).to(self._device, non_blocking=True)
        labels = self._compute(batch.observation[index])
        keys = batch.keys.choose(missing)
        self._readback.push(labels, lambda values: source.annotate(keys, values))
        return batch.annotation.index_copy(0, index, labels).view(rows, num_teachers, -1)

    def _compute(self, observation: Tensor) -> Tensor:
        """float32 [B, K A]."""
        num_states = len(observation) * len(self._teachers)
        self.num_states += num_states
        self._metrics.increment("learner_teacher_states_total", num_states)
        return torch.cat([teacher.q_values(observation) for teacher in self._teachers], dim=1)
