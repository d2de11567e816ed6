"""What of a teacher store nobody needs any more. `plan_garbage` decides, without clock or storage; `sweep` deletes.

Needed is: what the newest record of a teacher names; what a record named that was replaced or removed less than
`keep_seconds` ago; what a lease names; and whatever is younger than `keep_seconds`. Records go only if their teacher
was removed and no teacher descends from it. A publication that takes longer than `keep_seconds` may have to be begun
anew, but never ends with a record whose objects are gone.
"""

import shutil
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from teacher_store.records.record import TeacherRecord
from teacher_store.store.catalogue import ancestors_of
from teacher_store.store.leases import DEAD_SWEEP_SECONDS, SWEEP_SECONDS, SWEEPS, Lease, mark_sweep, read_leases
from teacher_store.store.publishing import hashes_of
from teacher_store.store.revisions import TEACHERS, Revision, number_revisions
from teacher_store.store.storage import OBJECTS, STAGING, VIEWS, Entry
from teacher_store.store.store import TeacherStore
from teacher_store.store.teacher_folders import folder_name


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a store.

    Attributes:
      objects: all of them.
      revisions: all of each id, ascending, with their entries.
      leases: of writers.
      old: records of the teachers in old folders, by id.
    """

    objects: Sequence[Entry]
    revisions: Mapping[str, Sequence[tuple[Revision, Entry]]]
    leases: Sequence[Lease]
    old: Mapping[str, TeacherRecord]


@dataclass(frozen=True, slots=True)
class Garbage:
    """What can go.

    Attributes:
      entries: in the storage; in the order in which they must be deleted.
      hidden: ids of removed teachers whose old folders can go.
      needed_views: names of the views that cannot go.
      needed_objects: SHA-256 of what cannot go.
    """

    entries: tuple[Entry, ...]
    hidden: frozenset[str]
    needed_views: frozenset[str]
    needed_objects: frozenset[str]


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What was deleted, or would be.

    Attributes:
      names: in the storage, and paths of local folders and files.
      freed_bytes: their size; what a run still shares by a hard link takes its room nevertheless.
      complete: False if there was too much for the time that a sweep may take; the next one goes on.
    """

    names: tuple[str, ...]
    freed_bytes: int
    complete: bool


def plan_garbage(contents: Contents, *, now: float, keep_seconds: float) -> Garbage:
    """Decides what can go.

    Args:
      contents: of the store; the leases were read after the caller's sweep was marked.
      now: by the storage's clock.
      keep_seconds: what is younger, or was needed less long ago, stays.
    """

    def is_old(entry: Entry) -> bool:
        return now - entry.modified >= keep_seconds

    live = [lease for lease in contents.leases if not is_old(lease.entry)]
    needed = {sha256 for lease in live for sha256 in lease.objects}
    views = set[str]()
    for revisions in contents.revisions.values():
        for (revision, _), after in zip(revisions, [*revisions[1:], None], strict=True):
            if revision.listed and (after is None or not is_old(after[1])):
                needed.update(hashes_of(revision.record).values())
                views.add(folder_name(revision.record))
    newest = {identity: revisions[-1][0] for identity, revisions in contents.revisions.items()}
    records = {**contents.old, **{identity: revision.record for identity, revision in newest.items()}}
    listed = [identity for identity in records if identity not in newest or newest[identity].listed]
    family = ancestors_of(records, [*listed, *(identity for lease in live for identity in lease.teachers)])
    objects = [entry for entry in contents.objects if is_old(entry) and entry.name.rpartition("/")[2] not in needed]
    forgotten = [
        entry  # the newest last: an older one must never seem to be the newest
        for identity, revisions in contents.revisions.items()
        if identity not in family and identity not in contents.old and is_old(revisions[-1][1])
        for _, entry in revisions
    ]
    dead = [lease.entry for lease in contents.leases if is_old(lease.entry)]
    hidden = {
        identity
        for identity, revisions in contents.revisions.items()
        if identity in contents.old and not revisions[-1][0].listed and is_old(revisions[-1][1])
    }
    return Garbage((*dead, *objects, *forgotten), frozenset(hidden), frozenset(views), frozenset(needed))


def collect_garbage(store: TeacherStore, *, keep_seconds: float, dry_run: bool = False) -> GarbageReport:
    """Frees what no teacher and no lineage needs, also what killed processes have left.

    Args:
      store: also written by others meanwhile; they wait for a minute at the most.
      keep_seconds: see `plan_garbage`; longer than any publication takes.
      dry_run: delete nothing.
    Raises: UserError if the store cannot be reached; CorruptDataError naming a record that is damaged: what it needs is
      not known, so nothing is deleted.
    """
    names, freed, complete = list[str](), 0, True
    with mark_sweep(store.storage) as marker:
        begun = time.monotonic()
        garbage = plan_garbage(_read(store), now=marker.modified, keep_seconds=keep_seconds)
        sweeps = [
            entry for entry in store.storage.entries(SWEEPS) if marker.modified - entry.modified > DEAD_SWEEP_SECONDS
        ]
        for entry in (*sweeps, *garbage.entries):
            if time.monotonic() - begun > SWEEP_SECONDS:
                complete = False
                break
            if not dry_run:
                store.storage.delete(entry.name)
            names.append(entry.name)
            freed += entry.size
    for path in _local_garbage(store, garbage):
        try:
            state = [inside.lstat() for inside in (path, *path.rglob("*"))]
        except FileNotFoundError:  # somebody is at work on it, or has collected it
            continue
        if time.time() - max(inside.st_ctime for inside in state) < keep_seconds:
            continue
        names.append(str(path))
        freed += sum(inside.st_size for inside in state if stat.S_ISREG(inside.st_mode) and inside.st_nlink == 1)
        with suppress(FileNotFoundError):  # another collection removes it, too
            if not dry_run and path.is_dir():
                shutil.rmtree(path)
            elif not dry_run:
                path.unlink()
    return GarbageReport(tuple(names), freed, complete)


def _read(store: TeacherStore) -> Contents:
    storage = store.storage
    leases = read_leases(storage)
    numbers = number_revisions(storage.entries(TEACHERS))
    revisions = {
        identity: [(store.catalogue.revisions.read([entry.name])[identity], entry) for entry in entries.values()]
        for identity, entries in numbers.items()
    }
    old = {identity: record for identity, (record, _) in store.catalogue.old_folders().items()}
    return Contents(storage.entries(OBJECTS), revisions, leases, old)


def _local_garbage(store: TeacherStore, garbage: Garbage) -> list[Path]:
    """What can go in the store's local folder, if it is old: what was staged, views, old folders, cached objects."""
    local = store.storage.local
    found = [*(local / STAGING).glob("*")]
    found += [path for path in (local / VIEWS).glob("*") if path.name not in garbage.needed_views]
    found += [path for identity, (_, path) in store.catalogue.old_folders().items() if identity in garbage.hidden]
    if str(local.resolve()) != store.location:
        found += [path for path in (local / OBJECTS).glob("*/*") if path.name not in garbage.needed_objects]
    return found
