"""What the driver tells of a run's processes: to the run's folder, to Prometheus, to the tracker, to people."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.processes.context import Name
from orchestrator.run.progress import View
from upcycle.runs.metrics import Metrics, metrics_target
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.tracker import Tracker, TrackerUnavailable

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Handle


class Announcer:
    """Tells where a run stands. An outage of the tracker is counted and survived.

    Args:
      ttl_seconds: for how long the tracker keeps a heartbeat.
    """

    def __init__(
        self, folder: RunFolder, tracker: Tracker, metrics: Metrics, view: View, *, ttl_seconds: float
    ) -> None:
        self._folder, self._tracker, self._metrics, self._view = folder, tracker, metrics, view
        self._ttl_seconds = ttl_seconds
        self._targets: list[dict[str, Any]] = []
        self._plain = set[str]()
        self._notice = ""  # what the learner has said last

    def tell(self, status: Record, handles: "Mapping[Name, Handle]") -> None:
        """Writes down what the driver knows (`status`) and what the processes have answered."""
        self._tell_of_kernels(handles)
        self._pass_on_notice(handles)
        status = {**status, "processes": {handle.name: _described(handle) for handle in handles.values()}}
        self._folder.write_status("driver", 0, status)
        for (role, index), handle in handles.items():
            if role != "actor" and handle.detail:  # actors write their own
                self._folder.write_status(role, index, {**handle.detail, "pid": handle.status["pid"]})
        self._write_targets(handles)
        try:
            self._tracker.publish_status("driver", 0, {**status, "time": time.time()}, self._ttl_seconds)
        except TrackerUnavailable:
            self._metrics.increment("tracker_unavailable_total")

    def _write_targets(self, handles: "Mapping[Name, Handle]") -> None:
        addresses = {("driver", index): at for index, at in self._folder.endpoints("metrics").items()} | {
            name: handle.status["metrics"] for name, handle in handles.items() if handle.status.get("metrics")
        }
        run = self._folder.path.name
        targets = [metrics_target(run, *name, address) for name, address in sorted(addresses.items())]
        if targets != self._targets:
            self._folder.write_metrics_targets(targets)
            self._targets = targets

    def _pass_on_notice(self, handles: "Mapping[Name, Handle]") -> None:
        """Says once what the learner has to say of itself."""
        learner = handles.get(("learner", 0))
        notice = "" if learner is None else str(learner.detail.get("notice", ""))
        if notice and notice != self._notice:
            self._notice = notice
            self._view.say(f"learner: {notice}")

    def _tell_of_kernels(self, handles: "Mapping[Name, Handle]") -> None:
        """Says once of each process that it runs on the plain kernels, and why."""
        found = {handle.name: why for handle in handles.values() if (why := handle.status.get("plain_kernels"))}
        for why in sorted({why for name, why in found.items() if name not in self._plain}):
            names = [name for name in found if found[name] == why and name not in self._plain]
            self._view.say(f"{', '.join(names)}: plain kernels, replay is several times slower: {why}")
        self._plain |= set(found)


def _described(handle: "Handle") -> Record:
    """What the driver knows of a process; it always has a state, also while it has yet to answer."""
    wait = handle.wait
    return {
        "state": handle.state,
        "pid": handle.status.get("pid"),
        "error": handle.died or handle.status.get("error"),
        "waiting": None if wait is None else wait.to_json(),
        "plain_kernels": handle.status.get("plain_kernels"),
    }
