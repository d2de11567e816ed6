"""Free space where a run's folder lies: said while there is time, and the run ended while there is room to end it."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from upcycle.config.run import ClusterConfig
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics

_log = structlog.get_logger(__name__)

_PERIOD_SECONDS: Final = 10.0
_SPARE: Final = "spare-room"
_SPARE_BYTES: Final = 1 << 20


class DiskWatch:
    """Looks now and then.

    Args:
      path: a folder of the file system.
      config: the thresholds.
      metrics: of the driver.
    """

    def __init__(self, path: Path, config: ClusterConfig, metrics: Metrics) -> None:
        self._path, self._config, self._metrics = path, config, metrics
        self._due = float("-inf")
        self.warning: str | None = None
        """What is to be said now; None while there is enough."""

    def look(self, *, now: float) -> bool:
        """Looks if it is time; says whether a warning has begun.

        Args:
          now: monotonic seconds.
        Raises: UserError below `cluster.disk_stop_bytes`.
        """
        if now < self._due:
            return False
        self._due = now + _PERIOD_SECONDS
        try:
            free = free_bytes(self._path)
        except OSError as error:  # a file system that is away for a moment
            _log.warning("disk_not_seen", error=str(error))
            return False
        self._metrics.set("disk_free_bytes", free)
        if free < self._config.disk_stop_bytes:
            raise too_full(self._path, free, self._config)
        warned, self.warning = self.warning, None
        if free < self._config.disk_warning_bytes:
            stop = f"; the run ends below {_size(self._config.disk_stop_bytes)}" if self._config.disk_stop_bytes else ""
            self.warning = f"{_size(free)} of disk left{stop}"
        began = warned is None and self.warning is not None
        if began:
            _log.warning("disk_low", path=str(self._path), free_bytes=free)
        return began


def check_disk(path: Path, config: ClusterConfig) -> None:
    """Raises UserError if a run in the folder `path`, which may not be there yet, would end at once."""
    place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    free = free_bytes(place)
    if free < config.disk_stop_bytes:
        raise too_full(place, free, config)


@contextmanager
def spare_room(path: Path) -> Generator[None]:
    """Keeps a little room in the folder `path`, which is free again afterwards, also if the disk is full by then."""
    spare = path / _SPARE
    with suppress(OSError):  # no room even now: then none is kept
        spare.write_bytes(os.urandom(_SPARE_BYTES))  # some file systems give zeros no room
    try:
        yield
    finally:
        spare.unlink(missing_ok=True)


def free_bytes(path: Path) -> int:
    """What this user may still write there."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def too_full(path: Path, free: int, config: ClusterConfig) -> UserError:
    """The error for a disk with less than `cluster.disk_stop_bytes`."""
    problem = f"has {_size(free)} left, less than cluster.disk_stop_bytes ({_size(config.disk_stop_bytes)})"
    return UserError("disk", str(path), problem, "free some space, then go on with: upcycle resume")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"
