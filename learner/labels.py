"""Teachers' values of stored states: computed once for each state, and stored beside it in replay.

offline: one pass over the table `teacher`, before its first batch
online:  for the unlabelled states of each batch
always:  for every batch, if a teacher's values of equal states may differ (a callable that is not cacheable)
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import structlog
import torch
from torch import Tensor

from learner.batches import Batch
from learner.readback import Readback
from replay_service.client.table_scan import ScanIncomplete
from replay_service.table.types import ScannedBatch, TransitionKeys
from teacher_store.teacher import Teacher
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics
from upcycle.runs.runtime import StopSignal

_log = structlog.get_logger(__name__)

_SCAN_BATCH = 256
_SCAN_SECONDS = 30.0
_PASSES = 5


class AnnotationClient(Protocol):
    """The methods of the sharded replay client that labels need."""

    def scan(
        self, table: str, batch_size: int, *, view: View, only_missing: bool, timeout_seconds: float
    ) -> Iterator[ScannedBatch]:
        """Each stored transition once, in an order determined by the table alone."""
        ...

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        """Best effort; returns how many states were annotated."""
        ...


class LabelSink(Protocol):
    """Receives the new labels of a batch."""

    def annotate(self, keys: TransitionKeys, values: Array) -> None:
        """Best effort; never waits."""
        ...


class TeacherLabels:
    """Values of K teachers, in float32: at temperature 0.1 the steps of half precision near 10 would matter.

    Attributes:
      num_states: states that the teachers have evaluated so far.
    """

    def __init__(self, teachers: Sequence[Teacher], device: torch.device, metrics: Metrics) -> None:
        self._device, self._metrics = device, metrics
        order = sorted(range(len(teachers)), key=lambda number: not teachers[number].record.cacheable)
        self._kept = [teachers[number] for number in order if teachers[number].record.cacheable]
        self._fresh = [teachers[number] for number in order[len(self._kept) :]]
        # Position of each teacher's values when the stored ones come first; None if that is the teachers' order.
        in_order = order == sorted(order)
        self._places = None if in_order else torch.tensor(order, device=device).argsort()
        self._readback = Readback(device)
        self.num_states = 0

    def annotate_table(
        self, replay: AnnotationClient, table: str, *, view: View, stop: StopSignal, rank: int = 0, ranks: int = 1
    ) -> None:
        """Labels every unlabelled state of a table, except for teachers that are not cacheable.

        Batches depend on the table alone, not on what is already labelled, so a state gets the same value to the last
        bit however often this is interrupted. Each rank does its share. If a shard is lost for good, or on `stop`, the
        remaining states are left to `of`.
        """
        for _ in range(_PASSES if self._kept else 0):
            try:
                scan = replay.scan(table, _SCAN_BATCH, view=view, only_missing=False, timeout_seconds=_SCAN_SECONDS)
                for number, batch in enumerate(scan):
                    if stop.is_set():
                        return
                    assert batch.annotated is not None, f"table {table!r} keeps no annotations"
                    if number % ranks == rank and not batch.annotated.all():
                        frames = torch.from_numpy(batch.windows.frames)[:, : view.stack].to(self._device)
                        values = self._compute(self._kept, frames).cpu().numpy()
                        replay.annotate(table, batch.keys, self._checked(values))
                return
            except ScanIncomplete as error:
                _log.warning("labels_incomplete", table=table, reason=str(error))

    def of(self, batch: Batch, source: LabelSink) -> Tensor:
        """Values of a batch's observations, float32 [B, K, A]; new cacheable ones are sent to `source` too."""
        self._readback.poll()
        parts = [self._kept_values(batch, source)] if self._kept else []
        parts += [self._compute(self._fresh, batch.observation)] if self._fresh else []
        values = torch.cat(parts, dim=1).view(len(batch.action), len(self._kept) + len(self._fresh), -1)
        return values if self._places is None else values.index_select(1, self._places)

    def _kept_values(self, batch: Batch, source: LabelSink) -> Tensor:
        """Values of the cacheable teachers, float32 [B, K A]."""
        if batch.annotation is None or batch.annotated is None:
            return self._compute(self._kept, batch.observation)
        missing = np.flatnonzero(~batch.annotated)
        if not len(missing):
            return batch.annotation
        index = torch.from_numpy(missing).to(self._device, non_blocking=True)
        labels = self._compute(self._kept, batch.observation[index])
        keys = batch.keys.choose(missing)
        self._readback.push(labels, lambda values: source.annotate(keys, self._checked(values)))
        return batch.annotation.index_copy(0, index, labels)

    def _checked(self, values: Array) -> Array:
        """Returns values of the cacheable teachers, float32 [B, K A]. Raises: UserError if one is not finite."""
        spoilt = np.flatnonzero(~np.isfinite(values).all(axis=0))
        if len(spoilt):
            teacher = self._kept[int(spoilt[0]) * len(self._kept) // int(values.shape[1])]
            problem, remedy = (
                "has values that are not finite for some state",
                "retrain it, or choose another teacher",
            )
            raise UserError("teacher.id", teacher.record.id, problem, remedy)
        return values

    def _compute(self, teachers: Sequence[Teacher], observation: Tensor) -> Tensor:
        """float32 [B, K A]."""
        num_states = len(observation) * len(teachers)
        self.num_states += num_states
        self._metrics.increment("learner_teacher_states_total", num_states)
        return torch.cat([teacher.values(observation) for teacher in teachers], dim=1)
