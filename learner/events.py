"""TensorBoard events of a run, written so that a full disk does not stop the learner."""

from pathlib import Path
from typing import Any, cast

import structlog
from tensorboardX import SummaryWriter

_log = structlog.get_logger(__name__)


def open_events(folder: Path, *, write: bool) -> SummaryWriter:
    """A writer into `folder`; with `write` false it writes nothing.

    The library's writer thread ends at its first error, and then every caller blocks on its full queue. Here events
    that cannot be written are dropped, which is logged once.
    """
    events = SummaryWriter(logdir=str(folder), flush_secs=10, write_to_disk=write)
    if write:
        # There is no public way: the library opens the file and starts the thread itself.
        writer = cast(Any, events).file_writer.event_writer
        writer._ev_writer = writer._worker._record_writer = _Lossy(writer._ev_writer)
    return events


class _Lossy:
    """The library's `EventsWriter`, dropping events that cannot be written."""

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
