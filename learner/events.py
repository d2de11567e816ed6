"""TensorBoard's events of a run: what a full disk does to them is no reason for a learner to stand still."""

from pathlib import Path
from typing import Any, cast

import structlog
from tensorboardX import SummaryWriter

_log = structlog.get_logger(__name__)


def open_events(folder: Path, *, write: bool) -> SummaryWriter:
    """A writer into `folder`; with `write` false it writes nothing.

    Its events are written by a thread. The library's ends at the first error, and soon after it everybody waits for
    ever for room in its queue; here events that cannot be written are given up, which is logged once.
    """
    events = SummaryWriter(logdir=str(folder), flush_secs=10, write_to_disk=write)
    if write:
        # There is no other way in: the library opens file and thread by itself.
        writer = cast(Any, events).file_writer.event_writer
        writer._ev_writer = writer._worker._record_writer = _Lossy(writer._ev_writer)
    return events


class _Lossy:
    """The library's `EventsWriter`, but what fails is lost."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._failed = writer, False

    def write_event(self, event: Any) -> None:
        self._attempt("write_event", event)

    def flush(self) -> None:
        self._attempt("flush")

    def close(self) -> None:
        self._attempt("close")

    def _attempt(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            if not self._failed:
                _log.error("events_not_written", error=str(error))
            self._failed = True
