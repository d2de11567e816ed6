"""Files that are whole or absent: atomic writes, JSON objects, checksums, and one error for a full disk."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from upcycle.errors import CorruptDataError, UserError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # disk, quota, file size limit


@contextmanager
def whole_or_absent(path: Path, *, mode: int = 0o644) -> Generator[int]:
    """A descriptor of a new file that takes the name `path` afterwards.

    A reader, also after a crash, sees the old file or the new one, whole: it is a temporary file beside it, which is
    forced to disk and renamed; then the folder is forced to disk too. On any failure the temporary file is removed and
    `path` is as it was.

    Args:
      mode: permissions of the new file, from its first byte on.
    Raises: UserError if there is no space left; OSError for anything else.
    """
    with disk_full_explained(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            try:
                os.fchmod(descriptor, mode)
                yield descriptor
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
        sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes `data` to `path`: see `whole_or_absent`."""
    with whole_or_absent(path, mode=mode) as descriptor:
        write_all(descriptor, data)


def replace_unsynced(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Readers see the old file or the new one. Not forced to disk: after a crash of the machine it means nothing.

    Raises: UserError if there is no space left; OSError for anything else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_full_explained(path):
        try:
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_all(descriptor: int, data: bytes | memoryview, *, offset: int = 0) -> None:
    """Hands all of `data` to the kernel, from byte `offset` of the file on.

    Raises: OSError; a part of the data may be written then.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_folder(path: Path) -> None:
    """Forces the names in a folder to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_full_explained(path: Path) -> Generator[None]:
    """Turns "no space left" on `path` (disk, quota or size limit) into a UserError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        remedy = "free some space or choose another folder"
        raise UserError("disk", str(path), f"is full ({error.strerror})", remedy) from error


def explain_os_error(error: OSError) -> UserError | None:
    """The UserError for what a user can put right about a disk or the file that `error` names; None for the rest."""
    name = "a file" if error.filename is None else str(error.filename)
    if error.errno in _NO_SPACE:
        return UserError("disk", name, f"is full ({error.strerror})", "free some space or choose another folder")
    if error.filename is None:
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError("file", name, f"is closed to you ({error.strerror})", "ask its owner, or choose another place")
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return UserError("file", name, f"cannot be what is wanted there ({error.strerror})", "name another path")
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises: FileNotFoundError; CorruptDataError if it is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptDataError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise CorruptDataError(f"{path}: no JSON object")
    return cast(dict[str, Any], values)


def read_json_files(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """The JSON objects in the files of this pattern, by name without suffix; what vanishes meanwhile is left out.

    Raises: CorruptDataError if one of them is none.
    """
    values = dict[str, dict[str, Any]]()
    for file in sorted(folder.glob(pattern)):
        with suppress(FileNotFoundError):
            values[file.stem] = read_json(file)
    return values
