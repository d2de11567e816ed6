"""Which teachers there are: the revisions of a storage, and the old folders that it has no revision of."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from teacher_store.records.record import TeacherRecord
from teacher_store.store.old_folders import find_old_folders
from teacher_store.store.revisions import Revision, Revisions
from teacher_store.store.storage import ObjectStorage
from upcycle.errors import UserError

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def ancestors_of(records: Mapping[str, TeacherRecord], ids: Iterable[str]) -> set[str]:
    """These ids, and all that they descend from as far as the records tell; loops among parents end."""
    found, left = set[str](), list(ids)
    while left:
        identity = left.pop()
        if identity not in found:
            found.add(identity)
            left.extend(records[identity].parents if identity in records else ())
    return found


class Catalogue:
    """Records by id. Each call sees what others have written.

    Args:
      storage: of the store.
      bundled: folder of teachers in the old layout that belong to every store.
    """

    def __init__(self, storage: ObjectStorage, bundled: Path | None) -> None:
        self.revisions = Revisions(storage)
        self._root, self._bundled = storage.local, bundled

    def newest(self) -> dict[str, Revision]:
        """What is known of each id; a revision wins over an old folder, and that over a bundled one.

        Raises: CorruptDataError naming the record that is unreadable.
        """
        old = {identity: Revision(record) for identity, (record, _) in self.old_folders().items()}
        return old | self.revisions.newest()

    def list(self) -> "list[TeacherRecord]":
        """See `TeacherStore.list`."""
        return [revision.record for _, revision in sorted(self.newest().items()) if revision.listed]

    def known(self) -> "list[TeacherRecord]":
        """See `TeacherStore.known`."""
        newest = self.newest()
        records = {identity: revision.record for identity, revision in newest.items()}
        listed = [identity for identity, revision in newest.items() if revision.listed]
        return [records[identity] for identity in sorted(ancestors_of(records, listed)) if identity in records]

    def get(self, name: str) -> TeacherRecord:
        """See `TeacherStore.get`."""
        exact = self.revisions.newest_of(name) if _ID.fullmatch(name) else None
        if exact is not None and exact.listed:
            return exact.record
        records = {record.id: record for record in self.list()}
        if name in records:
            return records[name]
        found = [record for record in records.values() if record.name == name]
        found = found or [record for record in records.values() if name and record.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError("teacher", name, "names several", f"choose one of {', '.join(r.id for r in found)}")
        names = sorted({record.name for record in records.values()} | set(records))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(records) or 'none'}"
        raise UserError("teacher", name, "there is no such teacher", remedy)

    def base_of(self, record: TeacherRecord) -> TeacherRecord:
        """The record that a changed one was made from. Raises: UserError if this store never had it."""
        if record.revision:
            found = self.revisions.get(record.id, record.revision)
            base = None if found is None else found.record
        else:
            base = self.old_folders()[record.id][0] if record.id in self.old_folders() else None
        if base is None:
            raise self._unknown(record)
        return base

    def old_folder(self, record: TeacherRecord) -> Path:
        """The folder of a teacher that has no revision. Raises: UserError if there is none."""
        found = self.old_folders()
        if record.id not in found:
            raise self._unknown(record)
        return found[record.id][1]

    def is_bundled(self, identity: str) -> bool:
        """Whether it ships with Upcycle."""
        return self._bundled is not None and identity in find_old_folders(self._bundled)

    def remember(self, record: TeacherRecord) -> None:
        """Keeps the record of one that is no teacher here, for the lineage; what is known of its id already stays."""
        self.revisions.begin(Revision(record, listed=False))

    def old_folders(self) -> dict[str, tuple[TeacherRecord, Path]]:
        """Record and folder of each teacher in an old folder, by id; the user's own win over bundled ones."""
        bundled = {} if self._bundled is None else find_old_folders(self._bundled)
        return bundled | find_old_folders(self._root)

    def _unknown(self, record: TeacherRecord) -> UserError:
        known = ", ".join(known.id for known in self.list())
        return UserError("teacher", record.id, "is not in this store", f"known: {known or 'none'}")
