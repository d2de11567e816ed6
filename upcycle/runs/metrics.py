"""Every metric of Upcycle, and the endpoint that serves them. The only module that imports prometheus_client.

A process owns one `Metrics` object. All names, kinds, units and meanings are in `METRICS`; each sample carries the
labels `run`, `role` and `index`, so the number of time series is the number of processes times the length of the table.
The list of targets for Prometheus carries none of these three (`metrics_target`): Prometheus would rename the samples'.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from upcycle.errors import UserError
from upcycle.runs.moments import Moments
from upcycle.runs.waits import WaitNote

disable_created_metrics()  # or every counter and histogram would bring a second series, the time of its first sample

PREFIX: Final = "upcycle_"
_LABELS: Final = ("run", "role", "index")
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table: a counter only grows, a gauge holds the newest value, a histogram holds durations."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: Final[Mapping[str, Metric]] = {
    "actor_frames_total": Metric("counter", "Environment frames played."),
    "actor_guided_frames_total": Metric("counter", "Environment frames in which the guiding teacher acted."),
    "actor_episodes_total": Metric("counter", "Episodes ended."),
    "actor_episode_return": Metric("gauge", "Raw return of the newest exploring episode; no measure of the policy."),
    "actor_step_seconds": Metric("histogram", "One batch of lanes: receive, choose actions, send."),
    "actor_insert_wait_seconds_total": Metric("counter", "Time that acting waited for replay to take its chunks."),
    "actor_epsilon": Metric("gauge", "Exploration of the behaviour policy."),
    "actor_policy_version": Metric("gauge", "Policy version that acts."),
    "actor_weight_lag_versions": Metric("gauge", "Newest published policy version less the one that acts."),
    "actor_torn_weights_total": Metric("counter", "Weight files that failed verification and were skipped."),
    "replay_inserts_total": Metric("counter", "Transitions inserted into the table `online`, in agent steps."),
    "replay_samples_total": Metric("counter", "Transitions sampled."),
    "replay_samples_per_insert": Metric("gauge", "Transitions sampled per transition inserted since the start."),
    "replay_insert_wait_seconds_total": Metric(
        "counter", "Time that inserts waited in line for samples (the limiter)."
    ),
    "replay_sample_wait_seconds_total": Metric(
        "counter",
        "Time that samples waited for inserts (the limiter): in line at a shard; at a learner, over all shards.",
    ),
    "replay_size": Metric("gauge", "Transitions that this shard holds, in agent steps."),
    "replay_fill_ratio": Metric("gauge", "Chunks that this shard holds, of those that its table `online` can hold."),
    "replay_oldest_seconds": Metric(
        "gauge", "Time since the oldest chunk of the table `online` came; not a number if it was seeded."
    ),
    "replay_spread_ratio": Metric(
        "gauge", "By how much the fill ratios of shards that take chunks differ: 0 is alike, told by the driver."
    ),
    "replay_draining": Metric("gauge", "1 while this shard takes no more chunks, before it leaves."),
    "replay_torn_windows_total": Metric(
        "counter", "Windows overwritten while they were read out of shared memory, and drawn again."
    ),
    "replay_stale_updates_total": Metric(
        "counter", "Priority updates dropped because their slot had been overwritten."
    ),
    "replay_annotations_total": Metric("counter", "Annotations written beside stored states, repeated ones included."),
    "replay_stale_annotations_total": Metric("counter", "Annotations dropped because their slot had been overwritten."),
    "replay_dropped_annotations_total": Metric("counter", "Annotations given up because their shard was away."),
    "replay_dropped_updates_total": Metric("counter", "Priority updates given up because their shard was away."),
    "replay_refused_chunks_total": Metric("counter", "Chunks refused because they failed verification."),
    "replay_duplicate_inserts_total": Metric("counter", "Chunks that had been inserted before, acknowledged again."),
    "replay_log_bytes_total": Metric("counter", "Bytes appended to the experience log."),
    "replay_log_held_bytes": Metric("gauge", "Bytes of this shard's experience log on disk."),
    "learner_steps_total": Metric("counter", "Gradient steps."),
    "learner_step_seconds": Metric("histogram", "One gradient step, without the wait for its batch."),
    "learner_wait_seconds_total": Metric("counter", "Time that the learner waited for batches."),
    "learner_td_loss": Metric("gauge", "TD loss, mean since the last report."),
    "learner_distillation_loss": Metric("gauge", "KL(teacher || student), mean since the last report."),
    "learner_margin_loss": Metric("gauge", "Large-margin term, mean since the last report."),
    "learner_cql_loss": Metric("gauge", "Conservative term, mean since the last report."),
    "learner_teacher_entropy": Metric(
        "gauge", "Entropy of the teachers' policy at the distillation temperature, in nats."
    ),
    "learner_teacher_states_total": Metric("counter", "States that the teachers' networks were given, each once."),
    "learner_distillation_multiplier": Metric("gauge", "Distillation multiplier in [0, 1]; 0 is weaned off."),
    "learner_learning_rate": Metric("gauge", "Learning rate."),
    "learner_policy_version": Metric("gauge", "Newest published policy version."),
    "learner_phase": Metric("gauge", "0 offline, 1 online, 2 rl, 3 finished."),
    "learner_fallbacks_total": Metric(
        "counter", "Times that the learner went back to an older checkpoint: values were not finite, a file damaged."
    ),
    "learner_checkpoint_seconds": Metric("histogram", "Writing one checkpoint."),
    "evaluator_mean_return": Metric("gauge", "Mean raw return of the newest evaluation."),
    "evaluator_normalised_score": Metric("gauge", "That return with random at 0 and the teacher at 1."),
    "evaluator_policy_version": Metric("gauge", "Policy version that was evaluated."),
    "evaluator_episodes_total": Metric("counter", "Whole episodes played by the evaluator."),
    "supervisor_restarts_total": Metric("counter", "Processes started again, by role.", ("target",)),
    "disk_free_bytes": Metric("gauge", "Free bytes where the run's folder lies, as the driver sees it."),
    "tracker_unavailable_total": Metric("counter", "Calls of the tracker that failed because Redis was away."),
    "process_up": Metric("gauge", "1 while the process does its work."),
}


def metrics_target(run: str, role: str, index: int, address: str) -> dict[str, Any]:
    """One process in the form of Prometheus's file_sd; the label `process` says whose `up` it is."""
    return {"targets": [address], "labels": {"process": f"{run}/{role}-{index}"}}


class Metrics:
    """The metrics of one process, in a registry of its own; thread-safe.

    An unknown name or label is a programmer's error (KeyError, ValueError), never a new time series.

    Attributes:
      moments: when this process came how far; no time series.
      waits: what this process waits for now; no time series.
    """

    def __init__(self, role: str, run: str, index: int = 0) -> None:
        self.moments, self.waits = Moments(), WaitNote()
        self._identity = {"role": role, "run": run, "index": str(index)}
        self._registry = CollectorRegistry()
        self._collectors: dict[str, Counter | Gauge | Histogram] = {}
        self._lock = threading.Lock()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds `amount` >= 0 to a counter."""
        collector = self._collector(name)
        assert isinstance(collector, Counter), f"{name} is no counter"
        collector.labels(**self._identity, **labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        collector = self._collector(name)
        assert isinstance(collector, Gauge), f"{name} is no gauge"
        collector.labels(**self._identity, **labels).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds one duration to a histogram."""
        collector = self._collector(name)
        assert isinstance(collector, Histogram), f"{name} is no histogram"
        collector.labels(**self._identity, **labels).observe(seconds)

    def value(self, name: str, **labels: str) -> float:
        """What a scrape would show now: the value, or a histogram's number of observations; 0 before the first."""
        suffix = "_count" if METRICS[name].kind == "histogram" else ""
        sample = self._registry.get_sample_value(f"{PREFIX}{name}{suffix}", self._identity | labels)
        return 0.0 if sample is None else sample

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serves `/metrics` from a thread until `close`; port 0 takes a free one. Returns "host:port".

        Raises: UserError if the port is taken.
        """
        assert self._server is None, "already serving"
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise UserError(
                "metrics port", f"{host}:{port}", f"cannot listen ({error.strerror})", "choose 0 or a free port"
            ) from error
        return f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stops serving and joins the thread; a second call does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5.0)
            self._server = self._thread = None

    def _collector(self, name: str) -> Counter | Gauge | Histogram:
        with self._lock:
            if name not in self._collectors:
                self._collectors[name] = self._new_collector(name, METRICS[name])
            return self._collectors[name]

    def _new_collector(self, name: str, metric: Metric) -> Counter | Gauge | Histogram:
        labels = (*_LABELS, *metric.labels)
        if metric.kind == "counter":
            return Counter(PREFIX + name, metric.help, labels, registry=self._registry)
        if metric.kind == "gauge":
            return Gauge(PREFIX + name, metric.help, labels, registry=self._registry)
        return Histogram(PREFIX + name, metric.help, labels, registry=self._registry, buckets=_SECONDS)
