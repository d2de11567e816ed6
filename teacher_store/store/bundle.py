"""A teacher in one file, with all that another machine needs to know of it: an uncompressed zip archive.

    bundle.json                  what this is, and the teacher's id
    teacher.json                 its record: protocol, scores, provenance, licence, and what its files are
    weights.safetensors  training_state.safetensors  experience-<digest>/...
    ancestors/<id>.json          records of all whom it descends from
    LICENCE.txt                  of weights and experience
    SHA256SUMS                   of every file above: unzip it, then `sha256sum -c SHA256SUMS`

The same teacher gives the same bytes. Logs are compressed already, so nothing is compressed again, and nothing that is
read from a bundle can become larger than the bundle. It is read by `teacher_store.importers.formats.upcycle_bundle`.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from teacher_store.records.record import TeacherRecord
from teacher_store.store.catalogue import ancestors_of
from teacher_store.store.old_folders import RECORD
from teacher_store.store.publishing import files_of, hashes_of
from teacher_store.store.store import TeacherStore
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import whole_or_absent

FORMAT: Final = "upcycle-teacher-bundle"
VERSION: Final = 1
DESCRIPTION: Final = "bundle.json"
ANCESTORS: Final = "ancestors/"
LICENCE: Final = "LICENCE.txt"
SUMS: Final = "SHA256SUMS"
_BLOCK: Final = 1 << 20
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def export_bundle(store: TeacherStore, name: str, output: Path) -> TeacherRecord:
    """Writes a teacher into one file; what was there is replaced, once all of it is written.

    Raises: UserError if there is no such teacher, the folder is not there or the disk is full; CorruptDataError naming
      a file of the teacher that is damaged. There is no new file then.
    """
    record = store.get(name)
    if not output.parent.is_dir():
        raise UserError("--output", str(output), "is in a folder that is not there", "make it first")
    records = {known.id: known for known in store.known()}
    ancestors = [records[one] for one in sorted(ancestors_of(records, record.parents)) if one in records]
    with (
        whole_or_absent(output) as descriptor,
        os.fdopen(descriptor, "wb", closefd=False) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        _write(archive, record, ancestors, store.folder(record))
    return record


def small_files(record: TeacherRecord, ancestors: Sequence[TeacherRecord]) -> dict[str, bytes]:
    """The files of a bundle that are made of records, by name and in order. A record's number is its own store's."""
    description = {"format": FORMAT, "version": VERSION, "teacher": record.id}
    files = {
        DESCRIPTION: json.dumps(description, indent=1).encode() + b"\n",
        RECORD: record.model_copy(update={"revision": 0}).to_bytes(),
    }
    for ancestor in ancestors:
        files[f"{ANCESTORS}{ancestor.id}.json"] = ancestor.model_copy(update={"revision": 0}).to_bytes()
    files[LICENCE] = licence_text(record)
    return files


def licence_text(record: TeacherRecord) -> bytes:
    """The file LICENCE.txt."""
    return f"Weights and experience of {record.id}: SPDX-License-Identifier: {record.licence}\n".encode()


def checksums(small: Mapping[str, bytes], hashes: Mapping[str, str]) -> bytes:
    """The file SHA256SUMS, as the program sha256sum reads it."""
    sums = {**{name: hashlib.sha256(data).hexdigest() for name, data in small.items()}, **hashes}
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()).encode()


def _write(archive: zipfile.ZipFile, record: TeacherRecord, ancestors: Sequence[TeacherRecord], folder: Path) -> None:
    small, hashes = small_files(record, ancestors), hashes_of(record)
    for name, data in small.items():
        archive.writestr(_entry(name, len(data)), data)
    paths = files_of(record, folder)
    for name, sha256 in sorted(hashes.items()):
        _copy(archive, name, paths[sha256], sha256)
    data = checksums(small, dict(sorted(hashes.items())))
    archive.writestr(_entry(SUMS, len(data)), data)


def _copy(archive: zipfile.ZipFile, name: str, path: Path, sha256: str) -> None:
    """Copies a file in blocks and compares it on the way. Raises: CorruptDataError."""
    digest = hashlib.sha256()
    with path.open("rb") as source, archive.open(_entry(name, path.stat().st_size), "w") as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != sha256:
        raise CorruptDataError(f"{path}: has changed since the teacher was published")


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix, wherever it is written
    entry.file_size = size  # tells zipfile beforehand whether it takes Zip64
    return entry
