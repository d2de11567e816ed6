"""The records of teachers as a storage keeps them: one file for each revision, never changed.

    teachers/<id>/<number, 8 digits>.json     {"listed": ..., "record": {...}, "sha256": "..."}

The newest revision is the one of the highest number. A change puts the next number, if it is absent; who comes second
takes the first one's change over and puts the number after that, so that no change is lost, whoever makes it. The
merge is by fields: what a writer did not touch is as the newest revision has it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from teacher_store.records.record import TeacherRecord
from teacher_store.store.storage import Entry, ObjectStorage
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_named, parse_json

TEACHERS: Final = "teachers/"
_NAME: Final = re.compile(r"teachers/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/(\d{8})\.json")
_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True)
class Revision:
    """A record, and whether it is that of a teacher.

    Attributes:
      record: with its number.
      listed: False of a teacher that was removed, and of an ancestor that is known by its record alone.
    """

    record: TeacherRecord
    listed: bool = True

    @property
    def name(self) -> str:
        """Its name in a storage."""
        return revision_name(self.record.id, self.record.revision)

    def numbered(self, number: int) -> "Revision":
        """The same with another number."""
        return Revision(self.record.model_copy(update={"revision": number}), self.listed)

    def to_bytes(self) -> bytes:
        """The revision as a readable JSON file with its checksum."""
        values = {"listed": self.listed, "record": self.record.model_dump(mode="json")}
        return json.dumps(values | {"sha256": _digest(values)}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str, where: str) -> "Revision":
        """Inverse of `to_bytes`, for what was found under `name`. Raises: CorruptDataError naming `where`."""
        try:
            values = parse_json(data)
            if not is_named(values):
                raise TypeError("no JSON object")
            expected, listed = values.pop("sha256"), values["listed"]
            record = TeacherRecord.from_bytes(json.dumps(values["record"]), where=where)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptDataError(f"{where}: is no revision of a record ({error!r})") from error
        if expected != _digest(values):
            raise CorruptDataError(f"{where}: fails its checksum")
        found = cls(record, listed is True)
        if found.name != name:
            raise CorruptDataError(f"{where}: is {found.name}")
        return found


def revision_name(identity: str, number: int) -> str:
    """The name of a revision in a storage."""
    return f"{TEACHERS}{identity}/{number:08d}.json"


def number_revisions(entries: Iterable[Entry]) -> dict[str, dict[int, Entry]]:
    """Entries by id and number, ascending; what is no revision is left out."""
    found = dict[str, dict[int, Entry]]()
    for entry in sorted(entries, key=lambda entry: entry.name):
        match = _NAME.fullmatch(entry.name)
        if match is not None:
            found.setdefault(match[1], {})[int(match[2])] = entry
    return found


def changed_fields(base: TeacherRecord, changed: TeacherRecord) -> dict[str, object]:
    """What of a record was changed, by field."""
    names = set(TeacherRecord.model_fields) - {"revision"}
    return {name: getattr(changed, name) for name in names if getattr(changed, name) != getattr(base, name)}


class Revisions:
    """The revisions in a storage. Nothing is kept in memory: each call sees what others have written."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def newest(self) -> dict[str, Revision]:
        """The newest revision of each id. Raises: CorruptDataError naming one that is damaged."""
        numbers = number_revisions(self._storage.entries(TEACHERS))
        return self.read([list(found.values())[-1].name for found in numbers.values()])

    def newest_of(self, identity: str) -> Revision | None:
        """The newest revision of one id, None if there is none. Raises: CorruptDataError."""
        numbers = number_revisions(self._storage.entries(f"{TEACHERS}{identity}/")).get(identity, {})
        return self.read([list(numbers.values())[-1].name]).get(identity) if numbers else None

    def get(self, identity: str, number: int) -> Revision | None:
        """One revision, None if there is none. Raises: CorruptDataError."""
        return self.read([revision_name(identity, number)]).get(identity)

    def read(self, names: Iterable[str]) -> dict[str, Revision]:
        """Revisions of several ids, one each, by id; those that were deleted meanwhile are left out."""
        data = self._storage.read(names)
        found = [
            Revision.from_bytes(content, name=name, where=f"{self._storage.location}/{name}")
            for name, content in data.items()
        ]
        return {revision.record.id: revision for revision in found}

    def begin(self, revision: Revision) -> None:
        """Puts the first revision of an id; nothing happens if it has one."""
        if self.newest_of(revision.record.id) is None:
            first = revision.numbered(1)
            self._storage.put_if_absent(first.name, first.to_bytes())

    def append(self, identity: str, change: Callable[[Revision | None], Revision]) -> Revision:
        """Puts the next revision of an id, whole or not at all; none where the change changes nothing.

        Args:
          identity: whose.
          change: makes it from the newest one, None if there is none; its number does not matter. It is called again
            if another process has put one meanwhile, and may raise to give up.
        Raises: what `change` raises; CorruptDataError; UserError if others put one each time.
        """
        for _ in range(_ATTEMPTS):
            before = self.newest_of(identity)
            after = change(before)
            number = 0 if before is None else before.record.revision
            if before is not None and before == after.numbered(number):
                return before
            after = after.numbered(number + 1)
            assert after.record.id == identity
            if self._storage.put_if_absent(after.name, after.to_bytes()):
                return after
        raise UserError("teacher", identity, "is being changed by others all the time", "try again later")


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
