"""Calls that wait for room, called in one by one: whoever makes room wakes the one call that it is for."""

import bisect
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Place:
    """One call's place in the line; the event is set when its turn has come, or never will (`came` tells)."""

    has_room: Callable[[], bool]
    arrival: float
    called: threading.Event = field(default_factory=threading.Event)
    came: bool = False


class WaitingLine:
    """Calls in order of arrival, see `turn`; the first is called as soon as there is room for it; nobody else is woken.

    A call whose turn has come keeps its place until it has used the room: nobody is called meanwhile, and whoever
    arrives sees that the line is not empty. So the number of wake-ups is that of turns, however many wait.

    Attributes:
      num_called: turns so far.

    Args:
      lock: guards whatever `has_room` looks at, and this line.
    """

    def __init__(self, lock: threading.Condition) -> None:
        self._lock, self._closed = lock, False
        self._line = list[_Place]()
        self.num_called = 0

    def __len__(self) -> int:
        """Calls that wait or have their turn. Held: lock."""
        return len(self._line)

    @contextmanager
    def turn(self, has_room: Callable[[], bool], timeout_seconds: float, *, arrival: float = 0.0) -> Generator[bool]:
        """Waits behind those before; yields whether this call's turn came in time, which lasts until the block ends.

        Args:
          has_room: whether there is room for this call; looked at under the lock.
          arrival: on any clock, since when the caller has been waiting: those of an earlier arrival come before it, and
            of the same arrival, those that called before. Nobody comes before a call whose turn it is.
        """
        place = _Place(has_room, arrival)
        with self._lock:
            first_waiting = 1 if self._line and self._line[0].called.is_set() else 0
            index = bisect.bisect_right(self._line, arrival, lo=first_waiting, key=lambda other: other.arrival)
            self._line.insert(index, place)
            self.call_next()
            if self._closed:
                place.called.set()
        place.called.wait(timeout_seconds)
        with self._lock:
            came = place.came and not self._closed
        try:
            yield came
        finally:
            with self._lock:
                self._line.remove(place)
                self.call_next()

    def call_next(self) -> None:
        """Calls the first in line if there is room for it; for whoever has made room. Held: lock."""
        if self._closed or not self._line:
            return
        first = self._line[0]
        if not first.called.is_set() and first.has_room():
            self.num_called += 1
            first.came = True
            first.called.set()

    def close(self) -> None:
        """Ends all waits, now and later; nobody's turn comes any more. Held: lock."""
        self._closed = True
        for place in self._line:
            place.called.set()

    def reopen(self) -> None:
        """Lets calls wait again; those whose wait `close` has ended stay without a turn. Held: lock."""
        self._closed = False


@contextmanager
def place_in(places: threading.Semaphore) -> Generator[bool]:
    """Whether there is a place for this call to wait in; it is given back when the block ends."""
    may_wait = places.acquire(blocking=False)
    try:
        yield may_wait
    finally:
        if may_wait:
            places.release()
