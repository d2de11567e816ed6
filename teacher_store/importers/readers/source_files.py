"""A file or folder that somebody else wrote, read within limits: no links, no surprises in size."""

import hashlib
import io
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, cast

from zlib_ng import gzip_ng, zlib_ng

from upcycle.errors import CorruptDataError, UserError

MAX_WEIGHT_BYTES: Final = 2 << 30
"""The largest file of weights that is read into memory, compressed or not."""
MAX_NAMES: Final = 100_000
"""The most files of a folder that are looked at."""
_MAX_DEPTH: Final = 4
_PART_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 12
_DAMAGED: Final = cast(type[Exception], zlib_ng.error)


class SourceFiles:
    """One path to import from. Nothing outside of it is ever opened, and no symbolic link is followed.

    Args:
      path: a file or a folder.
    Raises: UserError if there is nothing, or something that is neither file nor folder, or a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError("PATH", str(path), "is not there", "give the path of a file or folder") from error
        if stat.S_ISLNK(mode):
            raise UserError("PATH", str(path), "is a symbolic link", f"give the path itself: {os.path.realpath(path)}")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError("PATH", str(path), "is neither a file nor a folder", "give the path of one of them")
        self.is_file = stat.S_ISREG(mode)

    def names(self) -> list[str]:
        """Files, sorted: "" for a single file, else paths relative to the folder, with "/"; links are left out.

        Raises: UserError if there are more than `MAX_NAMES`.
        """
        if self.is_file:
            return [""]
        found = list[str]()
        for folder, folders, files in os.walk(self.path, followlinks=False):
            depth = len(Path(folder).relative_to(self.path).parts)
            folders[:] = sorted(folders) if depth < _MAX_DEPTH else []
            for name in files:
                path = Path(folder) / name
                if not path.is_symlink() and path.is_file():
                    found.append(path.relative_to(self.path).as_posix())
            if len(found) > MAX_NAMES:
                raise UserError("PATH", str(self.path), f"has over {MAX_NAMES:,} files", "point at the agent's folder")
        return sorted(found)

    def locate(self, name: str) -> Path:
        """The path of one of `names`. Raises: CorruptDataError if it is a link or leads out of the folder."""
        path = self.path / name if name else self.path
        inside = path.resolve(strict=False).is_relative_to(self.path.resolve())
        if path.is_symlink() or not inside:
            raise CorruptDataError(f"{path}: a link, or a path that leads out of {self.path}; refused")
        return path

    @contextmanager
    def open(self, name: str = "") -> Generator[io.BufferedReader]:
        """The bytes of a file. Raises: CorruptDataError if it is not there, or no file of its own."""
        path = self.locate(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise CorruptDataError(f"{path}: cannot be read ({error.strerror})") from error
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CorruptDataError(f"{path}: is no file; refused")
            yield file

    def sha256(self, *names: str) -> str:
        """Of a file's bytes; of several files, over the SHA-256 of each in this order."""
        found = list[str]()
        for name in names:
            with self.open(name) as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def head(self, name: str = "", count: int = 16) -> bytes:
        """The first bytes of a file."""
        with self.open(name) as file:
            return file.read(count)

    def tail(self, name: str = "", count: int = 16) -> bytes:
        """The last bytes of a file."""
        with self.open(name) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - count, 0))
            return file.read(count)

    def read(self, name: str = "", *, limit: int = MAX_WEIGHT_BYTES) -> bytes:
        """All of a file. Raises: CorruptDataError if it has more than `limit` bytes."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size  # as much is allocated as is asked for
            data = file.read(min(size, limit) + 1)
        if len(data) > limit:
            raise CorruptDataError(f"{self.locate(name)}: more than {limit:,} bytes; refused")
        return data

    def gunzip(self, name: str = "", *, limit: int = MAX_WEIGHT_BYTES) -> bytes:
        """All of a gzip file, decompressed. Raises: CorruptDataError if it is damaged, or more than `limit` bytes."""
        return gunzip(self.read(name, limit=limit), limit=limit, where=str(self.locate(name)))

    def gunzip_head(self, name: str = "", count: int = 16) -> bytes:
        """The first bytes of a gzip file, decompressed; as many as are sound."""
        stream, packed, found = zlib_ng.decompressobj(zlib_ng.MAX_WBITS + 16), self.head(name, count), bytearray()
        with suppress(_DAMAGED):
            for at in range(0, len(packed), _HEAD_BYTES):
                found += stream.decompress(packed[at : at + _HEAD_BYTES], max(count - len(found), 1))
                if len(found) >= count:
                    break
        return bytes(found[:count])


def gunzip(data: bytes, *, limit: int, where: str) -> bytes:
    """Decompresses gzip without ever holding more than `limit` bytes. Raises: CorruptDataError."""
    parts, size = list[bytes](), 0
    try:
        with gzip_ng.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(_PART_BYTES):  # as much is allocated as is asked for
                parts.append(part)
                size += len(part)
                if size > limit:
                    problem = f"decompresses to more than {limit:,} bytes (a decompression bomb?); refused"
                    raise CorruptDataError(f"{where}: {problem}")
    except (OSError, EOFError, _DAMAGED) as error:
        raise CorruptDataError(f"{where}: damaged gzip data ({error})") from error
    return b"".join(parts)
