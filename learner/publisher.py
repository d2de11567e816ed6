"""Policy versions out: the weights as a verified file first, the announcement after."""

from collections.abc import Mapping

import structlog

from upcycle.experience.chunks import Array
from upcycle.runs.metrics import Metrics
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.runs.tracker import Tracker, TrackerUnavailable

_log = structlog.get_logger(__name__)


class Publisher:
    """Numbers the policy versions of a run and makes them visible to actors and the evaluator.

    Guarantee: versions rise by one; a version that is announced can be loaded and verified, or has been pruned since
    (the newest `keep` stay). Without the tracker the files alone do.
    """

    def __init__(self, snapshots: SnapshotFolder, tracker: Tracker | None, metrics: Metrics, keep: int = 8) -> None:
        self._snapshots, self._tracker, self._metrics, self._keep = snapshots, tracker, metrics, keep
        newest = snapshots.latest()
        self.policy_version = 0 if newest is None else newest.version

    def publish(self, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> int:
        """Publishes `tensors` as the next version and returns its number."""
        self.policy_version += 1
        version = self.policy_version
        ref = self._snapshots.publish(version, tensors, {**metadata, "policy_version": str(version)})
        self._snapshots.prune(keep=self._keep)
        self._metrics.set("learner_policy_version", version)
        if self._tracker is not None:
            try:
                self._tracker.publish_weights(version, str(ref.path), ref.sha256)
            except TrackerUnavailable:
                self._metrics.increment("tracker_unavailable_total")
        return version
