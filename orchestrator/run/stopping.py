"""Ending a run from outside, wherever its driver runs."""

import os
import signal
import time
from contextlib import suppress
from typing import Final

from orchestrator.run import lease
from orchestrator.run.state import describe
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder

_POLL_SECONDS: Final = 0.2


def stop_run(folder: RunFolder, *, timeout_seconds: float) -> str:
    """Ends a run with a checkpoint, waits until it has ended, and returns its state.

    A driver on this machine gets SIGTERM; one elsewhere sees the request in the run folder.

    Raises: UserError if the run is not running, or has not ended in time.
    """
    record, name = describe(folder), folder.path.name
    if record["state"] not in ("running", "created"):
        raise UserError("run", name, f"is not running ({record['state']})", "nothing to stop")
    folder.request_stop()
    if record["pid"] is not None:
        with suppress(ProcessLookupError):  # it has ended by itself meanwhile
            os.kill(record["pid"], signal.SIGTERM)
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        state = str(describe(folder)["state"])
        if state not in ("running", "created") and lease.holder(folder) is None:
            return state
        time.sleep(_POLL_SECONDS)
    raise UserError("run", name, f"has not ended within {timeout_seconds:g} s", "see its logs, or wait longer")
