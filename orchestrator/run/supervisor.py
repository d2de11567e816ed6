"""When a process is started again, and when the run gives up on it. Pure: events and the time in, decisions out.

    started --> heard, heard, ... --> died (or silent too long) --> back-off --> Restart --> started ...
                                                 `-- more than max_restarts within the window --> GiveUp

A process that keeps dying is a defect or a wrong setting; starting it for ever would hide that behind a run that makes
no progress, so the run fails instead, and says what the process died of. The window is of time in which the process
answered: one that never comes up, or falls silent again and again, would outlast any other. A process that waits for a
place to run is neither alive nor dead.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)

_FIRST_BACK_OFF_SECONDS: Final = 0.5
_LONGEST_BACK_OFF_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Restart(Generic[P]):
    """Start this process again now; `attempt` counts from 1 within the window."""

    process: P
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp(Generic[P]):
    """End the run: this process has died more often than the limit allows."""

    process: P
    reason: str
    deaths: int


@dataclass(slots=True)
class _Watch:
    """What is known about one process.

    Attributes:
      heard: when it last answered, or is to answer for the first time.
      answers: it has answered since it was started.
      well: seconds in which it has answered, since it is watched.
      due: when it is to be started again; None while it runs.
      deaths: what `well` was at each of its deaths within the window.
    """

    heard: float
    answers: bool = False
    well: float = 0.0
    due: float | None = None
    reason: str = ""
    deaths: deque[float] = field(default_factory=lambda: deque[float]())


class Supervisor(Generic[P]):
    """Decides for all processes of a run; times are seconds of one monotonic clock.

    Args:
      max_restarts: deaths of one process that are forgiven within `window_seconds`; 0 forgives none.
      window_seconds: how long a process must have answered for a death of it to be forgotten.
      silence_seconds: a process that has not been heard of for longer counts as dead.
      start_seconds: so much longer it may take for its first answer, while it is being started.
    """

    def __init__(
        self, *, max_restarts: int, window_seconds: float, silence_seconds: float, start_seconds: float = 0.0
    ) -> None:
        self._max_restarts, self._window = max_restarts, window_seconds
        self._silence, self._start_seconds = silence_seconds, start_seconds
        self._watches: dict[P, _Watch] = {}

    def started(self, process: P, *, now: float) -> None:
        """It has been started, for the first time or again."""
        watch = self._watches.setdefault(process, _Watch(now))
        watch.heard, watch.answers, watch.due = now + self._start_seconds, False, None

    def waits(self, process: P, *, now: float) -> None:
        """It has been started, but there is no place for it yet: the time for its first answer has not begun."""
        watch = self._watches[process]
        watch.heard, watch.answers = now + self._start_seconds, False

    def heard(self, process: P, *, now: float) -> None:
        """It answered."""
        watch = self._watches[process]
        if watch.answers:
            watch.well += now - watch.heard
        watch.heard, watch.answers = now, True

    def died(self, process: P, reason: str, *, now: float) -> None:
        """It is gone. A second report of the same death changes nothing."""
        watch = self._watches[process]
        if watch.due is not None:
            return
        watch.deaths.append(watch.well)
        self._forget_old(watch)
        watch.reason = reason
        watch.due = now + min(_FIRST_BACK_OFF_SECONDS * 2 ** (len(watch.deaths) - 1), _LONGEST_BACK_OFF_SECONDS)

    def forget(self, process: P) -> None:
        """It has ended as it should; nothing is decided about it any more."""
        self._watches.pop(process, None)

    def decide(self, *, now: float) -> list[Restart[P] | GiveUp[P]]:
        """What is to be done now. A restart is decided once: report `started` when it has been carried out."""
        decisions: list[Restart[P] | GiveUp[P]] = []
        for process, watch in self._watches.items():
            if watch.due is None and now - watch.heard > self._silence:
                self.died(process, f"not heard of for {now - watch.heard:.0f} s", now=now)
            if watch.due is None:
                continue
            if len(watch.deaths) > self._max_restarts:
                decisions.append(GiveUp(process, watch.reason, len(watch.deaths)))
            elif now >= watch.due:
                decisions.append(Restart(process, watch.reason, len(watch.deaths)))
        return decisions

    def _forget_old(self, watch: _Watch) -> None:
        while watch.well - watch.deaths[0] > self._window:
            watch.deaths.popleft()
