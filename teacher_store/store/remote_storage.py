"""A teacher store's bytes in a bucket, or wherever else fsspec reaches; objects are copied into a local cache.

Writers rely on one thing alone: a conditional put (S3's `If-None-Match: *`) fails if the name is taken. Where a server
takes it for a plain put the first write of a process notices, and refuses.

    <cache>/upcycle/teachers/<digest of the URL>/objects/   copies, each compared with its SHA-256 before it is there
                                                 views/  staging/
"""

import hashlib
import tempfile
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import fsspec.core
import platformdirs

from teacher_store.store.storage import STAGING, Entry, object_name
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import disk_full_explained, sha256_of

_RETRIES: Final = 3
_TIMES: Final = ("LastModified", "created", "mtime", "updated", "last_modified")


class RemoteStorage:
    """A place by its URL. Every call ends within about a minute if nobody answers.

    Args:
      url: such as s3://bucket/teachers.
      cache: folder of local copies; by default in the user's cache.
      timeout_seconds: of one attempt to get an answer.
    Raises: UserError if the URL cannot be used, or needs a package that is not installed.
    """

    def __init__(self, url: str, cache: Path | None = None, *, timeout_seconds: float = 15.0) -> None:
        self._url = url.rstrip("/")
        key = hashlib.sha256(self._url.encode()).hexdigest()[:16]
        self._cache = cache or platformdirs.user_cache_path("upcycle") / "teachers" / key
        try:
            self._files, self._base, self._failures = _open(self._url, timeout_seconds)
        except ImportError as error:
            remedy = "run `pip install 'upcycle-rl[s3]'`" if url.startswith("s3:") else "install what it names"
            raise UserError("UPCYCLE_TEACHERS", url, f"needs a package ({error})", remedy) from error
        except ValueError as error:
            raise UserError("UPCYCLE_TEACHERS", url, str(error), "give a folder, or s3://bucket/folder") from error
        self._is_conditional = False

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    @property
    def local(self) -> Path:
        """The folder of local copies."""
        return self._cache

    def entries(self, prefix: str) -> list[Entry]:
        """See `ObjectStorage.entries`."""
        with self._explained():
            found = cast(dict[str, dict[str, Any]], self._files.find(self._path(prefix.rstrip("/")), detail=True))
        start = len(self._base) + 1
        return [  # a folder stands there if something was put into an empty one meanwhile
            Entry(path[start:], int(facts["size"]), _modified(facts))
            for path, facts in sorted(found.items())
            if facts["type"] == "file"
        ]

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """See `ObjectStorage.read`."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        with self._explained():
            found = cast(dict[str, bytes | Exception], self._files.cat(list(paths), recursive=False, on_error="return"))
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {paths[path]: content for path, content in found.items() if isinstance(content, bytes)}

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """See `ObjectStorage.put_if_absent`."""
        if not self._is_conditional:
            probe = f"leases/probe-{uuid.uuid4().hex}"
            if not self._put(probe, b"{}") or self._put(probe, b"{}"):
                problem = "does not keep what is there from being written again (conditional puts)"
                raise UserError("UPCYCLE_TEACHERS", self._url, problem, "use another server, or a folder")
            self.delete(probe)
            self._is_conditional = True
        return self._put(name, data)

    def put_objects(self, files: Mapping[str, Path]) -> None:
        """See `ObjectStorage.put_objects`. An object of another size than the file is written again."""
        for sha256, source in files.items():
            path = self._path(object_name(sha256))
            with self._explained():
                try:
                    size = int(self._files.info(path)["size"])
                except FileNotFoundError:
                    size = -1
                if size != source.stat().st_size:
                    self._files.put_file(str(source), path)

    def fetch(self, sha256: str) -> Path:
        """See `ObjectStorage.fetch`. Processes that fetch the same object at once each get a whole one."""
        target, remote = self._cache / object_name(sha256), self._path(object_name(sha256))
        if target.exists():
            return target
        staging = self._cache / STAGING
        with disk_full_explained(self._cache):
            for folder in (staging, target.parent):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=staging) as temporary:
                copy = Path(temporary) / sha256
                with self._explained():
                    try:
                        self._files.get_file(remote, str(copy))
                    except FileNotFoundError as error:
                        raise CorruptDataError(f"{self._url}/{object_name(sha256)}: is missing") from error
                if sha256_of(copy) != sha256:
                    raise CorruptDataError(f"{self._url}/{object_name(sha256)}: has changed since it was put there")
                copy.replace(target)
        return target

    def delete(self, name: str) -> None:
        """See `ObjectStorage.delete`."""
        with self._explained():
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def _put(self, name: str, data: bytes) -> bool:
        with self._explained():
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except FileNotFoundError as error:
            problem = f"is not there ({error})"
            raise UserError("UPCYCLE_TEACHERS", self._url, problem, "make the bucket, or correct its name") from error
        except self._failures as error:
            problem = f"cannot be used ({str(error) or type(error).__name__})"
            remedy = "check the URL, the network and the credentials (for S3: AWS_PROFILE, AWS_ACCESS_KEY_ID, ...)"
            raise UserError("UPCYCLE_TEACHERS", self._url, problem, remedy) from error


def _open(url: str, timeout_seconds: float) -> tuple[Any, str, tuple[type[Exception], ...]]:
    """The file system of a URL, the path in it, and what it raises where the place cannot be used."""
    options: dict[str, Any] = {"use_listings_cache": False}
    failures: tuple[type[Exception], ...] = (OSError,)
    if url.startswith("s3:"):
        from botocore.exceptions import BotoCoreError, ClientError

        timeouts = {"connect_timeout": timeout_seconds, "read_timeout": timeout_seconds}
        options |= {"skip_instance_cache": True, "config_kwargs": {**timeouts, "retries": {"max_attempts": 1}}}
        failures = (OSError, BotoCoreError, ClientError)
    files, base = cast(tuple[Any, str], fsspec.core.url_to_fs(url, **options))
    files.retries = _RETRIES  # s3fs tries again itself, by default five times
    return files, base.rstrip("/"), failures


def _modified(facts: Mapping[str, Any]) -> float:
    found = next(facts[name] for name in _TIMES if name in facts)
    return found.timestamp() if isinstance(found, datetime) else float(found)
