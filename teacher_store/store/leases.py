"""Writers and the garbage collector keep out of each other's way, on any machine, with no lock.

A writer puts a lease that names what its record is about to refer to, and only then looks for sweeps. A sweep puts its
own marker, and only then looks for leases. Whoever comes second sees the other: a sweep leaves what a lease names, and
a writer waits until the sweep has ended. Both may see each other, and neither waits for a writer.

A writer that was killed leaves its lease, a sweep its marker: old ones count for nothing. Ages are those of the
storage's clock.
"""

import json
import time
import uuid
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from teacher_store.records.record import TeacherRecord
from teacher_store.store.publishing import hashes_of
from teacher_store.store.storage import Entry, ObjectStorage
from upcycle.errors import CorruptDataError, UserError

LEASES: Final = "leases/"
SWEEPS: Final = "sweeps/"
SWEEP_SECONDS: Final = 60.0
"""A sweep begins no deletion later than this after its marker."""
DEAD_SWEEP_SECONDS: Final = 150.0
"""An older marker is that of a sweep that was killed."""
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Lease:
    """What a writer holds.

    Attributes:
      entry: in the storage.
      objects: SHA-256 of what its record will refer to.
      teachers: ids of its record and of those that it descends from.
    """

    entry: Entry
    objects: frozenset[str]
    teachers: frozenset[str]


class _Content(BaseModel):
    """The JSON object that a lease is."""

    objects: frozenset[str]
    teachers: frozenset[str]


class HeldLease:
    """A lease of this process."""

    def __init__(self, storage: ObjectStorage, name: str) -> None:
        self._storage, self._name = storage, name

    def check(self) -> None:
        """Raises UserError if it counts no longer: what it names may be gone."""
        if not self._storage.entries(self._name):
            problem = "was cleared up while this teacher was being written (gc with a short --older-than)"
            raise UserError("teacher store", self._storage.location, problem, "give the same command again")


@contextmanager
def hold_lease(
    storage: ObjectStorage, objects: Collection[str], teachers: Collection[str], *, wait_seconds: float = 600.0
) -> Generator[HeldLease]:
    """Keeps objects and records from being cleared up. Raises: UserError if a sweep does not end in `wait_seconds`."""
    name = f"{LEASES}{uuid.uuid4().hex}"
    content = json.dumps({"objects": sorted(objects), "teachers": sorted(teachers)}).encode()
    storage.put_if_absent(name, content)
    try:
        _wait_for_sweeps(storage, name, wait_seconds)
        yield HeldLease(storage, name)
    finally:
        storage.delete(name)


@contextmanager
def put_leased(
    storage: ObjectStorage, files: Mapping[str, Path], record: TeacherRecord, *ancestors: TeacherRecord
) -> Generator[None]:
    """Puts files as objects. Until it ends nothing clears them up, or what the record names, or records of ancestors.

    Raises: as `hold_lease`; UserError if it took so long that the lease counts no longer.
    """
    teachers = {record.id, *record.parents, *(ancestor.id for ancestor in ancestors)}
    with hold_lease(storage, {*files, *hashes_of(record).values()}, teachers) as lease:
        storage.put_objects(files)
        lease.check()
        yield


def read_leases(storage: ObjectStorage) -> list[Lease]:
    """All leases. Raises: CorruptDataError naming one that is unreadable."""
    entries = storage.entries(LEASES)
    contents = storage.read(entry.name for entry in entries)
    return [_parse(entry, contents[entry.name], storage) for entry in entries if entry.name in contents]


@contextmanager
def mark_sweep(storage: ObjectStorage) -> Generator[Entry]:
    """Makes writers wait, for at most `DEAD_SWEEP_SECONDS`."""
    name = f"{SWEEPS}{uuid.uuid4().hex}"
    storage.put_if_absent(name, b"sweep")
    try:
        (entry,) = storage.entries(name)
        yield entry
    finally:
        storage.delete(name)


def _wait_for_sweeps(storage: ObjectStorage, name: str, wait_seconds: float) -> None:
    begun = time.monotonic()
    while sweeps := storage.entries(SWEEPS):
        waited = time.monotonic() - begun
        mine = storage.entries(name)
        now = (mine[0].modified if mine else 0.0) + waited
        if all(now - sweep.modified > DEAD_SWEEP_SECONDS for sweep in sweeps):
            return
        if waited > wait_seconds:
            raise UserError("teacher store", storage.location, "is being cleared up", "wait until that has ended")
        time.sleep(_POLL_SECONDS)


def _parse(entry: Entry, content: bytes, storage: ObjectStorage) -> Lease:
    try:
        values = _Content.model_validate_json(content)
    except ValidationError as error:
        raise CorruptDataError(f"{storage.location}/{entry.name}: is no lease ({error})") from error
    return Lease(entry, values.objects, values.teachers)
