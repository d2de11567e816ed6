"""What the learner leaves behind: policy versions and checkpoints, files first, announcements after."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from torch import nn

from learner.checkpoint import CheckpointFolder, CheckpointRef
from learner.publisher import Publisher
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


class Saving:
    """Writes the policy versions, checkpoints and ended phases of one run; of several ranks only the first has one.

    A full disk sets `stop` instead of raising: then all ranks end together, and the last checkpoint is tried as well.

    Attributes:
      due: monotonic seconds at which the next checkpoint is to be written.
      problem: the error of a full disk, to be raised in the end.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        folder: RunFolder,
        metrics: Metrics,
        tracker: Tracker | None,
        stop: StopSignal,
    ) -> None:
        self._config, self._metrics, self._tracker, self._stop = config, metrics, tracker, stop
        self.problem: UserError | None = None
        self._constant = {
            "network": config.network.model_dump_json(),
            "env": config.env.model_dump_json(),
            "num_actions": spec.num_actions,
        }
        self._folder = folder
        self._publisher = Publisher(SnapshotFolder(folder.snapshots), tracker, metrics)
        self._checkpoints = CheckpointFolder(folder.checkpoints)
        self.due = time.monotonic() + config.learner.checkpoint_seconds

    @property
    def policy_version(self) -> int:
        """The newest one."""
        return self._publisher.policy_version

    def publish(self, network: nn.Module, metadata: Mapping[str, object]) -> None:
        """Makes the weights the next policy version, if the disk has room for it."""
        values = {**metadata, **self._constant}
        with self._full_disk_stops():
            self._publisher.publish(
                to_numpy(network.state_dict()), {name: str(value) for name, value in values.items()}
            )

    def save(self, state: dict[str, Any], counters: Mapping[str, int]) -> None:
        """Writes a checkpoint, if the disk has room for it; the newest one stays in any case."""
        started = time.monotonic()
        self.due = started + self._config.learner.checkpoint_seconds
        with self._full_disk_stops():
            ref = self._checkpoints.save(state, learner_steps=counters["learner_steps"], counters=dict(counters))
            self.due = time.monotonic() + self._config.learner.checkpoint_seconds
            self._metrics.observe("learner_checkpoint_seconds", time.monotonic() - started)
            self._announce(ref)

    def record_phases(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes down which phases have ended, if the disk has room for it."""
        with self._full_disk_stops():
            self._folder.write_phases(records)

    def _announce(self, ref: CheckpointRef) -> None:
        if self._tracker is not None:
            try:
                self._tracker.publish_checkpoint({"path": ref.path.name, "sha256": ref.sha256, **ref.counters})
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

    def load_newest(self) -> tuple[CheckpointRef, dict[str, Any]] | None:
        """The newest checkpoint that is whole and finite; None in a run that begins.

        Raises: CorruptDataError if there are some and none of them will do.
        """
        found = self._checkpoints.load_newest()
        self._metrics.increment("learner_fallbacks_total", len(self.passed_over))
        return found

    @property
    def passed_over(self) -> list[str]:
        """Why `load_newest` has taken none of the newer ones, a line for each."""
        return self._checkpoints.passed_over

    def load(self, learner_steps: int) -> tuple[CheckpointRef, dict[str, Any]]:
        """The checkpoint of this step. Raises: CorruptDataError if it is not there or not whole."""
        return self._checkpoints.load(learner_steps)
