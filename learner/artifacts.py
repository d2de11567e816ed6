"""What a learner writes for others: policy versions, checkpoints, finished phases.

TrainState --> Persistence (finite? rank 0?) --> ArtifactWriter --> SnapshotFolder, CheckpointFolder --> Redis
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from torch import nn

from learner.checkpoint import CheckpointFolder, CheckpointRef
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.runs.tracker import Tracker, TrackerUnavailable

_log = structlog.get_logger(__name__)

_KEPT_VERSIONS = 8


class ArtifactWriter:
    """Writes the policy versions, checkpoints and finished phases of one run; only rank 0 uses one.

    Guarantee: policy versions rise by one, and an announced version can be loaded and verified until it is pruned (the
    newest 8 stay). Files are written before Redis hears of them, and suffice while Redis is away.

    A full disk sets `stop` instead of raising, so that all ranks end together and still try a last checkpoint.

    Attributes:
      policy_version: the newest one; 0 before the first.
      checkpoint_due: monotonic seconds at which the next checkpoint is due.
      problem: the error of a full disk, for the learner to raise at its end.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        *,
        folder: RunFolder,
        metrics: Metrics,
        tracker: Tracker | None,
        stop: StopSignal,
    ) -> None:
        self._folder, self._metrics, self._tracker, self._stop = folder, metrics, tracker, stop
        self._checkpoint_seconds = config.learner.checkpoint_seconds
        self._constant_metadata = {
            "network": config.network.model_dump_json(),
            "env": config.env.model_dump_json(),
            "num_actions": str(spec.num_actions),
        }
        self._snapshots, self._checkpoints = SnapshotFolder(folder.snapshots), CheckpointFolder(folder.checkpoints)
        newest = self._snapshots.latest()
        self.policy_version = 0 if newest is None else newest.version
        self.checkpoint_due = time.monotonic() + self._checkpoint_seconds
        self.problem: UserError | None = None

    def publish(self, network: nn.Module, metadata: Mapping[str, object]) -> None:
        """Writes and announces the weights as the next policy version, unless the disk is full."""
        self.policy_version += 1
        version, strings = self.policy_version, {name: str(value) for name, value in metadata.items()}
        tensors = to_numpy(network.state_dict())
        with self._full_disk_stops():
            ref = self._snapshots.publish(
                version, tensors, strings | self._constant_metadata | {"policy_version": str(version)}
            )
            self._snapshots.prune(keep=_KEPT_VERSIONS)
            self._metrics.set("learner_policy_version", version)
            self._announce(lambda tracker: tracker.publish_weights(version, str(ref.path), ref.sha256))

    def save(self, state: dict[str, Any], counters: Mapping[str, int]) -> None:
        """Writes a checkpoint; on a full disk the newest one stays."""
        started = time.monotonic()
        self.checkpoint_due = started + self._checkpoint_seconds
        with self._full_disk_stops():
            ref = self._checkpoints.save(state, learner_steps=counters["learner_steps"], counters=dict(counters))
            self.checkpoint_due = time.monotonic() + self._checkpoint_seconds
            self._metrics.observe("learner_checkpoint_seconds", time.monotonic() - started)
            record = {"path": ref.path.name, "sha256": ref.sha256, **ref.counters}
            self._announce(lambda tracker: tracker.publish_checkpoint(record))

    def record_phases(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes the finished phases, unless the disk is full."""
        with self._full_disk_stops():
            self._folder.write_phases(records)

    def load_newest(self) -> tuple[CheckpointRef, dict[str, Any]] | None:
        """The newest checkpoint that is whole and finite; None in a new run.

        Raises: CorruptDataError if there are checkpoints and none is usable.
        """
        found = self._checkpoints.load_newest()
        self._metrics.increment("learner_fallbacks_total", len(self.passed_over))
        return found

    @property
    def passed_over(self) -> list[str]:
        """Why `load_newest` skipped newer checkpoints, a line for each."""
        return self._checkpoints.passed_over

    def load(self, learner_steps: int) -> tuple[CheckpointRef, dict[str, Any]]:
        """The checkpoint of this step. Raises: CorruptDataError if it is missing or damaged."""
        return self._checkpoints.load(learner_steps)

    def _announce(self, publish: Callable[[Tracker], None]) -> None:
        if self._tracker is not None:
            try:
                publish(self._tracker)
            except TrackerUnavailable:
                self._metrics.increment("tracker_unavailable_total")

    @contextmanager
    def _full_disk_stops(self) -> Generator[None]:
        try:
            yield
        except UserError as error:
            if error.field != "disk":
                raise
            _log.error("disk_full", error=str(error))
            self.problem = error
            self._stop.set()
