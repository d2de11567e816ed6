"""A disk that fills up: a warning where people and programs look, and an end while there is room for one."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import status
from orchestrator.cli.app import main
from orchestrator.processes.process import Process
from orchestrator.run import disk_watch, launch
from orchestrator.run.disk_watch import DiskWatch, check_disk, spare_room
from orchestrator.run.progress import Progress, SilentView, format_line
from tests.helpers.paths import ROOT
from tests.helpers.runs import catch, new_run, wait_until
from tests.helpers.scripted_cluster import drive, learner, new_folder
from upcycle.config.run import ClusterConfig
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import close_logging
from upcycle.runs.tracker import Tracker

CONFIG = ClusterConfig(disk_warning_bytes=4 << 30, disk_stop_bytes=1 << 30)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the disk has left: the last entry."""
    left = [10 << 30]

    def found(_: Path) -> int:
        if left[-1] < 0:
            raise OSError("away")
        return left[-1]

    monkeypatch.setattr(disk_watch, "free_bytes", found)
    return left


def test_it_warns_once_until_there_is_room_again_and_ends_before_there_is_none(tmp_path: Path, free: list[int]):
    metrics = Metrics("driver", "run")
    watch = DiskWatch(tmp_path, CONFIG, metrics)
    said = list[tuple[bool, str | None]]()
    for number, count in enumerate((10, 3, 2, -1, 5, 3)):
        free.append(count << 30)
        said.append((watch.look(now=100.0 * number), watch.warning))
    low = "of disk left; the run ends below 1.0 GiB"
    assert said == [
        (False, None),
        (True, f"3.0 GiB {low}"),
        (False, f"2.0 GiB {low}"),
        (False, f"2.0 GiB {low}"),  # not seen for a moment
        (False, None),
        (True, f"3.0 GiB {low}"),
    ]
    assert metrics.value("disk_free_bytes") == 3 << 30
    free.append(500 << 20)
    assert not watch.look(now=501.0)  # not each second
    with pytest.raises(UserError, match=r"has 500 MiB left, less than cluster\.disk_stop_bytes .*upcycle resume"):
        watch.look(now=600.0)


def test_a_run_shows_the_warning_and_ends_in_order(
    tmp_path: Path, tracker: Tracker, free: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disk_watch, "_PERIOD_SECONDS", 0.0)
    folder = new_folder(tmp_path)

    def answer(name: str, round_: int) -> Any:
        free.append({1: 10 << 30, 2: 3 << 30}.get(round_, 1 << 20))
        return learner("online", 5, 5) if name == "learner-0" else {}

    cluster, screen, _, driver = drive(folder, tracker, answer)
    with pytest.raises(UserError, match="has 1 MiB left"):
        driver.run()
    assert cluster.stopped[:3] == ["actor-0", "actor-1", "learner-0"]  # asked for its checkpoint
    assert [line for line in screen.said if "warning: 3.0 GiB of disk left" in line]
    assert str(folder.statuses()["driver-0"]["warning"]).startswith("3.0 GiB")
    assert "warning: 3.0 GiB of disk left" in format_line(screen.shown[-1])
    assert "warning" not in format_line(Progress("rl"))


def test_a_run_is_not_begun_without_room(tmp_path: Path, free: list[int]):
    free.append(1 << 20)
    check_disk(tmp_path / "runs" / "x", CONFIG.model_copy(update={"disk_stop_bytes": 0}))
    with pytest.raises(UserError, match="has 1 MiB left"):
        launch.run(
            catch(), preset="catch", path=tmp_path / "runs" / "x", overwrite=False, view=SilentView(), place=None
        )
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_inside_a_process_is_the_user_s_to_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/data/status.json")

    folder = new_run(tmp_path / "run", catch())
    monkeypatch.setattr(RunFolder, "announce_endpoint", full)
    process = Process("replay", 0, folder.path, "127.0.0.1")
    try:
        process.start()
        wait_until(lambda: process.status()["state"] == "failed")
        assert process.status()["user_error"][:2] == ("disk", "/data/status.json")
    finally:
        assert process.stop(20.0)
        close_logging()


def test_small_files_say_that_the_disk_is_full(tmp_path: Path):
    """A file that may not grow is as good as a full disk."""
    code = f"""
import resource
from pathlib import Path
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder
folder = RunFolder(Path({str(tmp_path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for write in (
    lambda: folder.write_status("actor", 0, {{"frames": 10}}),
    lambda: folder.append_score({{"kind": "final", "mean_return": 1.5}}),
    lambda: folder.announce_endpoint("replay", 0, "127.0.0.1:1000"),
):
    try:
        write()
    except UserError as error:
        print(error.field)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == ["disk", "disk", "disk"], done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["scores.jsonl"]
    assert RunFolder(tmp_path).scores() == []


def test_what_says_how_a_run_has_ended_finds_room(tmp_path: Path):
    with spare_room(tmp_path):
        (spare,) = tmp_path.iterdir()
        assert spare.stat().st_size == 1 << 20
    assert not list(tmp_path.iterdir())
    with spare_room(tmp_path / "away"):
        pass


def test_a_full_disk_without_a_name_is_no_defect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.cli.status.show_all", full)
    assert main(["status"]) == 2
    assert "is full (No space left on device)" in capsys.readouterr().err


def test_status_says_why_a_run_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = new_run(tmp_path / "run", catch())
    folder.update_manifest(state="stopped", reason="disk = '/data': has 1 MiB left")
    assert status.show(folder.path, as_json=False) == 0
    assert "reason: disk = '/data': has 1 MiB left" in capsys.readouterr().out
