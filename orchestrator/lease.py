"""One driver per run: a lock on a file of the run folder, which the kernel gives back when the driver dies."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Final

from upcycle.errors import UserError
from upcycle.run_folder import RunFolder

_NAME: Final = "driver.lock"


@contextmanager
def hold(folder: RunFolder) -> Generator[None]:
    """Keeps every other driver away from the run. Raises: UserError if one is at it already."""
    with (folder.path / _NAME).open("a+", encoding="ascii") as file:
        if not _try_lock(file):
            raise UserError(
                "run", folder.path.name, f"is running already{_holder(file)}", "stop it first: upcycle stop"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(folder: RunFolder) -> int | None:
    """Process id of the run's driver on this machine, or None if the run is not running here."""
    path = folder.path / _NAME
    if not path.exists():
        return None
    with path.open("r+", encoding="ascii") as file:
        if _try_lock(file):
            return None
        file.seek(0)
        return int(file.read() or 0) or None


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    text = file.read()
    return f" (process {text})" if text else ""
