"""The receiving end of a policy: the newest version that a learner has published, loaded and verified."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import structlog

from upcycle.errors import CorruptDataError
from upcycle.runs.snapshots import Snapshot, SnapshotFolder, SnapshotRef
from upcycle.runs.tracker import Tracker, TrackerUnavailable

_log = structlog.get_logger(__name__)


class _Counter(Protocol):
    """The part of `upcycle.runs.metrics.Metrics` that is needed here."""

    def increment(self, name: str, amount: float = 1) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class PolicyWeights(Snapshot):
    """One whole, verified policy version; its `metadata` has `env_frames`, `phase`, `epsilon_done` and more."""

    version: int


class WeightSubscriber:
    """Follows the newest policy version of a run. Actors and the evaluator each have one.

    The newer of two announcements counts, Redis's and the snapshot folder's: either may lag, and the folder alone
    suffices while Redis is away. When both name an older version than the last one, that version is taken: a learner
    that was restarted continues from its checkpoint. Files that fail verification are counted and skipped.

    Args:
      snapshots: the run's policy versions.
      tracker: the run's index, or None.
      poll_seconds: minimum time between two looks.
      metrics: counts files that fail verification and calls that Redis did not answer.
    Attributes:
      problem: the newest failure to read weights; empty if there was none.
    """

    def __init__(
        self,
        snapshots: SnapshotFolder,
        tracker: Tracker | None,
        *,
        poll_seconds: float,
        metrics: _Counter | None = None,
    ) -> None:
        self._snapshots, self._tracker, self._metrics = snapshots, tracker, metrics
        self._poll_seconds = poll_seconds
        self._next_poll = float("-inf")
        self._current: SnapshotRef | None = None
        self.problem = ""

    def poll(self, now: float, *, wanted: Callable[[SnapshotRef], bool] | None = None) -> PolicyWeights | None:
        """The newest version, loaded and verified; None if it is too early, or the newest is known or not wanted.

        Args:
          now: monotonic seconds.
          wanted: decides before a version is loaded; it may raise CorruptDataError. By default every version is wanted.
        """
        if now < self._next_poll:
            return None
        self._next_poll = now + self._poll_seconds
        for ref in sorted(self._announced(), key=lambda ref: ref.version, reverse=True):
            if ref == self._current:
                return None
            try:
                if wanted is not None and not wanted(ref):
                    return None
                snapshot = self._snapshots.load(ref)
            except CorruptDataError as error:
                self._count("actor_torn_weights_total", str(error))
                continue
            self._current = ref
            return PolicyWeights(snapshot.tensors, snapshot.metadata, ref.version)
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
        if reason != self.problem:
            _log.warning("weights_not_read", reason=reason)
        self.problem = reason
        if self._metrics is not None:
            self._metrics.increment(name)
