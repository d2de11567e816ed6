"""Reads bundles that `teacher_store.store.bundle` has written, on this machine or on a stranger's.

Strict: a bundle has the files that its records name, each once, uncompressed, each with the SHA-256 that SHA256SUMS
says, and nothing else. Whatever differs is refused, and nothing is written outside of the folder that is given.
"""

import hashlib
import stat
import struct
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.records.lineage import build_lineage
from teacher_store.records.record import TeacherRecord
from teacher_store.store.bundle import ANCESTORS, DESCRIPTION, FORMAT, LICENCE, SUMS, VERSION, checksums, licence_text
from teacher_store.store.catalogue import ancestors_of
from teacher_store.store.old_folders import RECORD
from teacher_store.store.publishing import hashes_of
from upcycle.errors import CorruptDataError
from upcycle.files import disk_full_explained
from upcycle.narrowing import parse_json

_MAX_FILES: Final = 100_000
_MAX_DIRECTORY_BYTES: Final = 32 << 20
_MAX_TEXT_BYTES: Final = 64 << 20
"""Of all records and other texts together."""
_BLOCK: Final = 1 << 20
_FIRST: Final = b"PK\x03\x04"
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_DAMAGED: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,  # zipfile's answer to encrypted entries, and to whatever it does not know
)


@dataclass(frozen=True, slots=True)
class TeacherBundle:
    """What a bundle says that it holds; its small files are checked, the large ones are where they are taken out.

    Attributes:
      source: the file.
      record: of the teacher; its number is 0.
      ancestors: records of those that it descends from.
    """

    source: SourceFiles
    record: TeacherRecord
    ancestors: tuple[TeacherRecord, ...]

    def extract(self, folder: Path) -> dict[str, Path]:
        """Takes the teacher's files and its record out into a new folder, and returns the files by SHA-256.

        Raises: CorruptDataError naming a file that is damaged; UserError if the disk is full.
        """
        found = dict[str, Path]()
        with disk_full_explained(folder), _opened(self.source) as archive:
            folder.mkdir()
            for name, sha256 in hashes_of(self.record).items():
                target, digest = folder / name, hashlib.sha256()
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as copy:
                    for block in _blocks(archive, name, str(self.source.path)):
                        digest.update(block)
                        copy.write(block)
                if digest.hexdigest() != sha256:
                    raise CorruptDataError(f"{self.source.path}: {name} fails its SHA-256")
                found[sha256] = target
            (folder / RECORD).write_bytes(self.record.to_bytes())
        return found


def is_bundle(source: SourceFiles) -> bool:
    """Whether the source is a bundle, whole or damaged: it begins as all of them do."""
    name = DESCRIPTION.encode()
    head = source.head(count=30 + len(name)) if source.is_file else b""
    return head[:4] == _FIRST and head[30:] == name and head[26:28] == len(name).to_bytes(2, "little")


def open_bundle(source: SourceFiles) -> TeacherBundle:
    """Reads and checks everything in a bundle but its large files.

    Raises: CorruptDataError naming the file in it that is damaged, missing, left over, a link, compressed or too large,
      or the record that is wrong.
    """
    where = str(source.path)
    with _opened(source) as archive:
        sizes = _check_entries(archive, where)
        texts = _read_texts(archive, sizes, where)
    record = _parse(texts, RECORD, where)
    description = _description(texts, where)
    if description != {"format": FORMAT, "version": VERSION, "teacher": record.id}:
        raise CorruptDataError(f"{where}: {DESCRIPTION}: is of {description}, this build reads version {VERSION}")
    ancestors = [_parse(texts, name, where) for name in sorted(texts) if name.startswith(ANCESTORS)]
    _check_family(record, ancestors, where)
    hashes = hashes_of(record)
    ours = [DESCRIPTION, RECORD, *(f"{ANCESTORS}{ancestor.id}.json" for ancestor in ancestors), LICENCE]
    _compare_names(list(sizes), [*ours, *sorted(hashes), SUMS], where)
    if texts[LICENCE] != licence_text(record):
        raise CorruptDataError(f"{where}: {LICENCE}: is not of the licence {record.licence}")
    if texts[SUMS] != checksums({name: texts[name] for name in ours}, dict(sorted(hashes.items()))):
        raise CorruptDataError(f"{where}: {SUMS} disagrees with a record, or with a file that has changed since")
    for part in (record.weights, record.training_state):
        if part is not None and sizes[part.file] != part.bytes:
            raise CorruptDataError(f"{where}: {part.file} has {sizes[part.file]:,} bytes, not {part.bytes:,}")
    return TeacherBundle(source, record, tuple(ancestors))


def _check_entries(archive: zipfile.ZipFile, where: str) -> dict[str, int]:
    """Sizes by name, in order. Raises: CorruptDataError for an entry that no bundle has."""
    sizes = dict[str, int]()
    for entry in archive.infolist():
        name = entry.filename
        kind = stat.S_IFMT(entry.external_attr >> 16)
        problem = None
        if name in sizes:
            problem = "is there twice"
        elif name != entry.orig_filename or name.startswith("/") or ".." in name.split("/"):
            problem = "leads out of it"
        elif kind not in (0, stat.S_IFREG) or name.endswith("/"):
            problem = "is a link, or no file"
        elif entry.flag_bits & 1:
            problem = "is encrypted"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problem = "is compressed, which bundles are not (a decompression bomb?)"
        if problem is not None:
            raise CorruptDataError(f"{where}: {name!r} {problem}; refused")
        sizes[name] = entry.file_size
    return sizes


def _read_texts(archive: zipfile.ZipFile, sizes: dict[str, int], where: str) -> dict[str, bytes]:
    names = [name for name in sizes if name in (DESCRIPTION, RECORD, LICENCE, SUMS) or name.startswith(ANCESTORS)]
    if sum(sizes[name] for name in names) > _MAX_TEXT_BYTES:
        raise CorruptDataError(f"{where}: over {_MAX_TEXT_BYTES:,} bytes of records; refused")
    with _explained(where):
        texts = {name: archive.read(name) for name in names}
    for name in (DESCRIPTION, RECORD, LICENCE, SUMS):
        if name not in texts:
            raise CorruptDataError(f"{where}: {name} is missing")
    return texts


def _description(texts: dict[str, bytes], where: str) -> object:
    try:
        return parse_json(texts[DESCRIPTION])
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where}: {DESCRIPTION}: is no JSON ({error})") from error


def _parse(texts: dict[str, bytes], name: str, where: str) -> TeacherRecord:
    record = TeacherRecord.from_bytes(texts[name], where=f"{where}: {name}")
    if record.revision != 0 or (name != RECORD and name != f"{ANCESTORS}{record.id}.json"):
        raise CorruptDataError(f"{where}: {name}: is the record of {record.id}, revision {record.revision}")
    return record


def _check_family(record: TeacherRecord, ancestors: list[TeacherRecord], where: str) -> None:
    """Raises CorruptDataError if one descends from itself, or one is no ancestor."""
    records = {ancestor.id: ancestor for ancestor in ancestors}
    strangers = set(records) - (ancestors_of(records, record.parents) - {record.id})
    if strangers:
        raise CorruptDataError(f"{where}: {record.id} does not descend from {', '.join(sorted(strangers))}")
    try:
        build_lineage([record, *ancestors])
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}") from error


def _compare_names(found: list[str], expected: list[str], where: str) -> None:
    known = set(expected)
    folders = {name[:end] for name in expected for end in range(len(name)) if name[end] == "/"}
    if len(known) != len(expected) or known & folders:
        raise CorruptDataError(f"{where}: its record names two files alike")
    for name in sorted(set(found) ^ known):
        raise CorruptDataError(f"{where}: {name} {'is missing' if name in known else 'is left over'}")


@contextmanager
def _opened(source: SourceFiles) -> Generator[zipfile.ZipFile]:
    """The archive, if its list of files is within limits. Raises: CorruptDataError."""
    where = str(source.path)
    with source.open() as file:
        with _explained(where):
            count = _check_directory(file, where)
            archive = zipfile.ZipFile(file)
        if len(archive.infolist()) != count:
            raise CorruptDataError(f"{where}: says that it has {count:,} files, and lists {len(archive.infolist()):,}")
        total = sum(entry.file_size for entry in archive.infolist())
        if total > file.seek(0, 2):
            raise CorruptDataError(f"{where}: its files overlap, {total:,} bytes in all; refused")
        with archive:
            yield archive


def _check_directory(file: IO[bytes], where: str) -> int:
    """How many files it says it has. Raises CorruptDataError if their list, which is read at once, is too large."""
    size = file.seek(0, 2)
    file.seek(max(size - _END.size, 0))
    end = file.read()
    if len(end) < _END.size or not end.startswith(b"PK\5\6"):
        raise CorruptDataError(f"{where}: is cut off, or no bundle: it does not end with a list of its files")
    *_, count, directory_bytes, _, _ = _END.unpack(end)
    if size >= _END.size + _LOCATOR.size + _END64.size:
        file.seek(size - _END.size - _LOCATOR.size - _END64.size)
        end64, locator = file.read(_END64.size), file.read(_LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            *_, count, directory_bytes, _ = _END64.unpack(end64)
    if count > _MAX_FILES or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise CorruptDataError(f"{where}: lists {count:,} files in {directory_bytes:,} bytes; refused")
    file.seek(0)
    return count


@contextmanager
def _explained(where: str) -> Generator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise CorruptDataError(f"{where}: is damaged ({error})") from error


def _blocks(archive: zipfile.ZipFile, name: str, where: str) -> Generator[bytes]:
    with _explained(where):
        file = archive.open(name)
    with file:
        while True:
            with _explained(where):
                block = file.read(_BLOCK)
            if not block:
                return
            yield block
