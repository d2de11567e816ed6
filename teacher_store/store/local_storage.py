"""A teacher store's bytes in a folder."""

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from teacher_store.store.storage import STAGING, Entry, object_name
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.log_folder import share_file
from upcycle.files import disk_full_explained, sha256_of, sync_folder, write_all

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK})


class LocalStorage:
    """A folder, made when something is put into it. What is put is linked where the file system is the same."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        """The folder's path, absolute."""
        return str(self._root.resolve())

    @property
    def local(self) -> Path:
        """The folder itself."""
        return self._root

    def entries(self, prefix: str) -> list[Entry]:
        """See `ObjectStorage.entries`. The time is that of the last link, for a file may be older than the teacher."""
        base = self._root / prefix
        paths = (Path(folder) / name for folder, _, names in os.walk(base) for name in names)
        found = list[Entry]()
        for path in [base] if base.is_file() else paths:
            with suppress(FileNotFoundError):  # deleted meanwhile
                state = path.stat(follow_symlinks=False)
                found.append(Entry(path.relative_to(self._root).as_posix(), state.st_size, state.st_ctime))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """See `ObjectStorage.read`."""
        found = dict[str, bytes]()
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = (self._root / name).read_bytes()
        return found

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `ObjectStorage.put_if_absent`. A hard link is made or fails. Raises: UserError if there are none."""
        target = self._root / name
        with disk_full_explained(self._root):
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=".record-", dir=self._staging())
            try:
                os.fchmod(descriptor, 0o644)
                write_all(descriptor, data)
                os.fsync(descriptor)
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                remedy = "name a folder on another file system in UPCYCLE_TEACHERS"
                raise UserError("teacher store", self.location, "is where no hard links can be made", remedy) from error
            finally:
                os.close(descriptor)
                os.unlink(temporary)
            sync_folder(target.parent)
            sync_folder(target.parent.parent)
        return True

    def put_objects(self, files: Mapping[str, Path]) -> None:
        """See `ObjectStorage.put_objects`. An object that was damaged meanwhile is replaced."""
        folders = set[Path]()
        with disk_full_explained(self._root):
            for sha256, source in files.items():
                target = self._root / object_name(sha256)
                target.parent.mkdir(parents=True, exist_ok=True)
                folders |= {target.parent, target.parent.parent}
                try:
                    if not target.exists():
                        share_file(source, target)
                        continue
                except FileExistsError:  # another process was faster
                    pass
                if not target.samefile(source) and sha256_of(target) != sha256:
                    self._replace(source, target)
            for folder in folders:
                sync_folder(folder)

    def fetch(self, sha256: str) -> Path:
        """See `ObjectStorage.fetch`."""
        path = self._root / object_name(sha256)
        if not path.exists():
            raise CorruptDataError(f"{path}: is missing")
        return path

    def delete(self, name: str) -> None:
        """See `ObjectStorage.delete`."""
        (self._root / name).unlink(missing_ok=True)

    def _replace(self, source: Path, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".object-", dir=self._staging()) as temporary:
            share_file(source, Path(temporary) / target.name)
            (Path(temporary) / target.name).replace(target)

    def _staging(self) -> Path:
        path = self._root / STAGING
        path.mkdir(parents=True, exist_ok=True)
        return path
