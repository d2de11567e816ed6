"""Trims the oldest segments of an experience log and keeps the count of all transitions ever appended.

Before a segment is removed, `trimmed.json` records how many transitions precede the first record that stays. So
counting needs no complete log, and a writer that dies between the note and the removal counts nothing twice.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from upcycle.errors import CorruptDataError
from upcycle.experience.log_folder import load_segments
from upcycle.experience.log_segment import Segment
from upcycle.files import write_atomically

_NOTE: Final = "trimmed.json"
_TRIES: Final = 10


class Trimming:
    """The trimmed part of one log.

    Raises: CorruptDataError if its note is unreadable.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NOTE
        self._first_sequence = self._num_transitions = 0
        try:
            values = json.loads(self._path.read_bytes())
            self._first_sequence, self._num_transitions = int(values["first_sequence"]), int(values["num_transitions"])
        except FileNotFoundError:  # nothing has been trimmed yet
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{self._path}: unreadable ({error})") from error

    def next_sequence(self, segments: Sequence[Segment]) -> int:
        """Sequence number of the next record after `segments`, the remaining ones of the log.

        None remain if the power was cut before they were forced to disk; trimmed records keep their numbers even then.
        """
        return segments[-1].first_sequence + segments[-1].num_chunks if segments else self._first_sequence

    def num_appended(self, segments: Iterable[Segment]) -> int:
        """Transitions ever appended. `segments` may include some that the note already counts."""
        kept = (segment for segment in segments if segment.first_sequence >= self._first_sequence)
        return self._num_transitions + sum(int(segment.num_transitions.sum()) for segment in kept)

    def remove(self, oldest: Segment) -> None:
        """Removes the oldest segment. Raises: UserError, and keeps it, if the disk has no room for the note."""
        if oldest.first_sequence >= self._first_sequence:  # else a writer noted it before it died
            first_sequence = oldest.first_sequence + oldest.num_chunks
            num_transitions = self._num_transitions + int(oldest.num_transitions.sum())
            note = {"first_sequence": first_sequence, "num_transitions": num_transitions}
            write_atomically(self._path, json.dumps(note).encode())
            self._first_sequence, self._num_transitions = first_sequence, num_transitions
        oldest.index_path.unlink(missing_ok=True)
        oldest.path.unlink()


def count_appended(directory: Path) -> int:
    """Transitions ever appended to a log; safe while it is appended to or trimmed. Raises: CorruptDataError."""
    for _ in range(_TRIES):
        before = Trimming(directory)
        with suppress(FileNotFoundError):  # trimmed while it was read
            segments = load_segments(directory)
            if vars(Trimming(directory)) == vars(before):
                return before.num_appended(segments)
    raise CorruptDataError(f"{directory}: segments are trimmed faster than they can be counted")


def count_logged(experience: Path) -> dict[int, int]:
    """Transitions ever appended to the log of each shard of a run, by shard index.

    Args:
      experience: the run's folder of logs, `shard-<k>` inside.
    Raises: CorruptDataError if a log is damaged.
    """
    folders = [path.parent for path in experience.glob("shard-*/log.json") if path.parent.name[6:].isdigit()]
    return {int(folder.name[6:]): count_appended(folder) for folder in folders}
