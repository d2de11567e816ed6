"""The metric `replay_size`."""

import threading

from upcycle.runs.metrics import Metrics


class SizeGauge:
    """The metric `replay_size`, over all tables of the shard. Thread-safe."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._lock = metrics, threading.Lock()
        self._sizes: dict[str, int] = {}

    def set(self, table: str, num_transitions: int) -> None:
        """Takes note of one table's size."""
        with self._lock:
            self._sizes[table] = num_transitions
            self._metrics.set("replay_size", sum(self._sizes.values()))
