"""One driver per run: a lock on a file of the run folder, which the kernel gives back when the driver dies."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, Final

from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder

_NAME: Final = "driver.lock"
_LOOK_SECONDS: Final = 2.0
"""A driver tries for so long: whoever looks at the lock holds it for a moment."""
_PAUSE_SECONDS: Final = 0.05


@contextmanager
def hold(folder: RunFolder) -> Generator[None]:
    """Keeps every other driver away from the run. Raises: UserError if one is at it already."""
    with (folder.path / _NAME).open("a+", encoding="ascii") as file:
        deadline = time.monotonic() + _LOOK_SECONDS
        while not (taken := _try_lock(file, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        if not taken:
            raise UserError(
                "run", folder.path.name, f"is running already{_holder(file)}", "stop it first: upcycle stop"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(folder: RunFolder) -> int | None:
    """Process id of the run's driver on this machine, or None if the run is not running here.

    Needs to read, not to write. Raises: PermissionError if not even that is allowed.
    """
    try:
        file = (folder.path / _NAME).open("r", encoding="ascii")
    except FileNotFoundError:
        return None
    with file:
        if _try_lock(file, fcntl.LOCK_SH):  # shared, so that those who look do not take one another for drivers
            return None
        file.seek(0)
        return int(file.read() or 0) or None


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    text = file.read()
    return f" (process {text})" if text else ""
