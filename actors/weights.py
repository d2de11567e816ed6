"""Following the learner's policy versions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import structlog

from upcycle.errors import CorruptDataError
from upcycle.runs.snapshots import SnapshotFolder, SnapshotRef, Tensors
from upcycle.runs.tracker import Tracker, TrackerUnavailable

_log = structlog.get_logger(__name__)


class _Counter(Protocol):
    """The part of `upcycle.runs.metrics.Metrics` that is needed here."""

    def increment(self, name: str, amount: float = 1) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class PolicyWeights:
    """One whole, verified policy version.

    Attributes:
      version: policy version.
      tensors: weights by parameter name.
      metadata: what the learner says about them: `env_frames`, `phase`, `epsilon_done` and more.
    """

    version: int
    tensors: Tensors
    metadata: dict[str, str]


class WeightSubscriber:
    """Looks for another policy version than the one handed out last, now and then.

    The tracker's announcement and the folder's are both read, and the newer one counts: either may lag behind, and the
    files alone do while Redis is away. A version older than the last one is taken when both agree on it: a learner
    that was restarted goes on from its checkpoint. A file that fails verification is counted and skipped.

    Args:
      snapshots: the run's folder of weights.
      tracker: the run's index, or None.
      poll_seconds: least time between two looks.
      metrics: counts torn files and a silent tracker.
    Attributes:
      problem: what the newest failure to read was; empty if there was none.
    """

    def __init__(
        self,
        snapshots: SnapshotFolder,
        tracker: Tracker | None,
        poll_seconds: float,
        metrics: _Counter | None = None,
    ) -> None:
        self._snapshots, self._tracker, self._metrics = snapshots, tracker, metrics
        self._poll_seconds = poll_seconds
        self._next_poll = float("-inf")
        self._current: SnapshotRef | None = None
        self.problem = ""

    def poll(self, now: float) -> PolicyWeights | None:
        """Another version than before, loaded and verified; None if it is not time yet or there is none.

        Args:
          now: monotonic seconds.
        """
        if now < self._next_poll:
            return None
        self._next_poll = now + self._poll_seconds
        for ref in sorted(self._announced(), key=lambda ref: ref.version, reverse=True):
            if ref == self._current:
                return None
            try:
                snapshot = self._snapshots.load(ref)
            except CorruptDataError as error:
                self._count("actor_torn_weights_total", str(error))
                continue
            self._current = ref
            return PolicyWeights(ref.version, snapshot.tensors, snapshot.metadata)
        return None

    def _announced(self) -> Iterator[SnapshotRef]:
        if self._tracker is not None:
            try:
                weights = self._tracker.latest_weights()
            except TrackerUnavailable as error:
                self._count("tracker_unavailable_total", str(error))
            else:
                if weights is not None:
                    yield SnapshotRef(*weights)
        try:
            latest = self._snapshots.latest()
        except CorruptDataError as error:
            self._count("actor_torn_weights_total", str(error))
        else:
            if latest is not None:
                yield latest

    def _count(self, name: str, reason: str) -> None:
        _log.warning("weights_not_read", reason=reason)
        self.problem = reason
        if self._metrics is not None:
            self._metrics.increment(name)
