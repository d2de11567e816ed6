"""Watching a run for waits: what its processes say, put to `orchestrator.run.standstill`, and a word in the log."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from orchestrator.run.standstill import Movement, Standstill, explain
from upcycle.runs.run_folder import Record

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Handle

_log = structlog.get_logger(__name__)

_MOVING: Final = ("env_frames", "learner_steps", "labelled_states", "num_inserted", "num_sampled", "size")
"""What the learner and the shards count: a run in which none of it changes makes no progress."""


class Watch:
    """Looks at the processes of a run, once a round; not thread-safe."""

    def __init__(self) -> None:
        self._movement = Movement()
        self._found: Standstill | None = None

    def look(self, handles: "Iterable[Handle]", *, now: float) -> Record | None:
        """What holds up the run, or a part of it (`Standstill.to_json`); None if nothing does.

        A new finding, and its end, are logged.

        Args:
          now: Unix seconds.
        """
        handles = list(handles)
        counters = tuple((handle.name, *_counters(handle.detail)) for handle in handles if handle.role != "evaluator")
        still_since = self._movement.update(counters, now=now)
        found = explain({handle.name: handle.wait for handle in handles}, still_since=still_since, now=now)
        if found is not None and (self._found is None or found.key != self._found.key):
            _log.warning("waiting", **found.to_json())
        elif found is None and self._found is not None:
            _log.info("waiting_no_longer", line=self._found.line)
        self._found = found
        return None if found is None else found.to_json()


def _counters(detail: Mapping[str, Any]) -> list[Any]:
    return [detail.get(name) for name in _MOVING]
