"""Stands where a raylet expects an agent of its own, and does nothing; it ends with the raylet."""

import signal

from orchestrator.cluster.parent_death import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    while True:
        signal.pause()
