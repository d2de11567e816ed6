"""Fixtures for tests that run the driver against a scripted cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.run import cadence
from tests.helpers.scripted_cluster import new_folder
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.tracker import Tracker


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cadence, "_QUICK_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_folder(tmp_path)


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """A tracker whose Redis cannot be reached."""
    tracker = Tracker("redis://127.0.0.1:1/0", "run")
    yield tracker
    tracker.close()
