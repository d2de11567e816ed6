"""Room that the limiter has promised to writers whose chunks are on their way. Pure: it takes the time."""


class Reservations:
    """At most `most` writers have room at a time, each for `keep_seconds`; who has not come by then has lost it.

    So the bulk data on its way to a table is bounded, and a writer that was killed keeps others out for a moment only.
    """

    def __init__(self, *, most: int, keep_seconds: float) -> None:
        self._most, self._keep_seconds = most, keep_seconds
        self._rooms: dict[str, tuple[int, float]] = {}  # writer -> transitions, when it ends; the oldest first

    def grant(self, writer_id: str, num_transitions: int, now: float) -> None:
        """Promises room to a writer, in place of what it was promised before."""
        self._rooms.pop(writer_id, None)
        self._rooms[writer_id] = (num_transitions, now + self._keep_seconds)
        assert len(self._rooms) <= self._most, "whoever grants has asked has_place"

    def has_place(self, now: float) -> bool:
        """Whether one more writer may be promised room."""
        self._forget(now)
        return len(self._rooms) < self._most

    def holds(self, writer_id: str, now: float) -> bool:
        """Whether this writer has room."""
        self._forget(now)
        return writer_id in self._rooms

    def num_transitions(self, now: float, *, besides: str | None = None) -> int:
        """Transitions for which room has been promised, to others than the writer `besides`."""
        self._forget(now)
        return sum(number for writer_id, (number, _) in self._rooms.items() if writer_id != besides)

    def end(self, writer_id: str) -> None:
        """Takes back what is left of a writer's room."""
        self._rooms.pop(writer_id, None)

    def _forget(self, now: float) -> None:
        for writer_id in [writer_id for writer_id, (_, end) in self._rooms.items() if end <= now]:
            del self._rooms[writer_id]
