"""Which inserts have been accepted before, so that repeating one is safe."""

from collections import OrderedDict
from typing import Final

_MAX_WRITERS: Final = 1024
_MAX_SEQUENCES: Final = 1024


class RecentInserts:
    """The newest inserts of the newest writers.

    A writer that was restarted calls itself by another name, and repeats only what it has sent last; so it is enough to
    remember the last 1024 inserts of each of the last 1024 writers.
    """

    def __init__(self) -> None:
        self._writers: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()

    def add(self, writer_id: str, sequence: int) -> None:
        """Remembers an insert."""
        sequences = self._writers.setdefault(writer_id, OrderedDict())
        self._writers.move_to_end(writer_id)
        sequences[sequence] = None
        if len(sequences) > _MAX_SEQUENCES:
            sequences.popitem(last=False)
        if len(self._writers) > _MAX_WRITERS:
            self._writers.popitem(last=False)

    def __contains__(self, insert: tuple[str, int]) -> bool:
        writer_id, sequence = insert
        return sequence in self._writers.get(writer_id, ())
