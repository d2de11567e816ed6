import errno
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.event_file_writer import EventsWriter

from learner.events import open_events


def test_a_full_disk_neither_stops_nor_fails_whoever_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = open_events(tmp_path, write=True)
    events.add_scalar("before", 1.0, 0)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "write_event", full)
    monkeypatch.setattr(EventsWriter, "flush", full)

    def report() -> None:
        for step in range(100):  # many more than wait in the library's queue
            events.add_scalar("loss", 1.0, step)
        events.close()

    reporting = threading.Thread(target=report, daemon=True)
    reporting.start()
    reporting.join(30)
    assert not reporting.is_alive()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    events = open_events(tmp_path, write=False)
    events.add_scalar("loss", 1.0, 0)
    events.close()
    assert list(tmp_path.iterdir()) == []
