"""What a process waits for, and since when: a part of its status, so that a run which stands still can say why.

A process works, or it waits for one thing. Its loop keeps a `WaitNote` up to date; whoever watches reads it from the
process's status and finds who waits for whom (`orchestrator.run.standstill`).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

WaitKind = Literal["cpus", "start", "shards", "ranks", "weights", "teacher", "phase", "room", "samples"]
"""What is waited for:

  cpus     a place on some node of the cluster
  start    nothing: the process is being made ready (imports, a log to be read, a network to be built)
  shards   replay shards that answer
  ranks    the learner's other ranks
  weights  the first policy version that can be read
  teacher  transitions in the table `teacher`
  phase    the end of the offline phase, which needs no actors
  room     samples: replay's limiter takes no more inserts before them
  samples  inserts: replay holds too little, or its limiter gives no more samples before them
"""

_KINDS: Final = frozenset(get_args(WaitKind))


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait.

    Attributes:
      since: Unix seconds.
      detail: what is known about it, in a few words; may be empty.
    """

    kind: WaitKind
    since: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values: `kind`, `since`, `detail`."""
        return {"kind": self.kind, "since": self.since, "detail": self.detail}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> "Wait | None":
        """What `to_json` gave; None stays None, as does a kind that this version does not know."""
        if values is None or values["kind"] not in _KINDS:
            return None
        return cls(values["kind"], float(values["since"]), str(values["detail"]))


class WaitNote:
    """What one process waits for now. Thread-safe.

    Args:
      clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._wait: Wait | None = None

    def waiting(self, kind: WaitKind, detail: str = "") -> None:
        """It waits. While the kind stays the same it is the same wait, whatever is known about it now."""
        with self._lock:
            since = self._wait.since if self._wait is not None and self._wait.kind == kind else self._clock()
            self._wait = Wait(kind, since, detail)

    def working(self) -> None:
        """It waits no longer."""
        with self._lock:
            self._wait = None

    def now(self) -> Wait | None:
        """The wait; None while the process works."""
        with self._lock:
            return self._wait
