"""`upcycle status` reads: what others own, what is damaged, what is closed."""

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.cli.app import main
from orchestrator.run import lease
from orchestrator.run.state import describe
from tests.helpers.runs import catch
from upcycle.runs.run_folder import RunFolder

NOBODY = 65_534


@contextmanager
def without_rights() -> Generator[None]:
    """Root may read everything: for a while this process is nobody."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def runs() -> Generator[Path]:
    """A folder that everybody may look into, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="up-runs-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for closed in path.iterdir():
            closed.chmod(0o755)
        shutil.rmtree(path)


def make(runs: Path, name: str) -> RunFolder:
    """A run that its owner lets others read."""
    folder = RunFolder.create(runs / name, catch(f"name={name}"), teacher=None, random_score=-0.5)
    with lease.hold(folder):
        folder.update_manifest(state="finished")
    for path in (folder.path, *folder.path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert main(["status", "--runs", str(runs), "--json"]) == 0
    return {record["name"]: record for record in json.loads(capsys.readouterr().out)}


def test_a_colleague_s_run_is_listed_by_reading_alone(runs: Path, capsys: pytest.CaptureFixture[str]):
    folder = make(runs, "theirs")
    for path in folder.path.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.path.chmod(0o555)
    main(["status", "theirs", "--runs", str(runs)])  # imports what is imported late
    capsys.readouterr()
    with without_rights():
        assert listed(runs, capsys)["theirs"]["state"] == "finished"
        assert main(["status", "theirs", "--runs", str(runs)]) == 0


def test_what_cannot_be_read_is_one_row_that_says_so(runs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("closed", "half", "torn", "old", "empty", "mine"):
        make(runs, name)
    (runs / "closed").chmod(0)
    (runs / "half" / "scores.jsonl").write_text("")
    (runs / "half" / "scores.jsonl").chmod(0)
    (runs / "torn" / "manifest.json").write_text('{"format": 1')
    (runs / "empty" / "manifest.json").write_text('{"format": 1}')
    (runs / "old" / "config.toml").write_text("[replay]\nfield_of_tomorrow = 1\n")
    (runs / "notes").mkdir()  # no run
    listed(runs, capsys)
    with without_rights():
        found = listed(runs, capsys)
        assert main(["status", "--runs", str(runs)]) == 0
        lines = capsys.readouterr().out.splitlines()
        codes = [main(["status", name, "--runs", str(runs)]) for name in ("closed", "half", "torn", "empty")]
    assert {name: record["state"] for name, record in found.items()} == {
        **dict.fromkeys(("closed", "half", "torn", "old", "empty"), "unreadable"),
        "mine": "finished",
    }
    assert "Permission denied" in str(found["closed"]["error"])
    assert "field_of_tomorrow" in str(found["old"]["error"])
    for name in found:
        assert len([line for line in lines if f" {name} " in line]) == 1
    assert codes == [2, 2, 2, 2]
    errors = capsys.readouterr().err
    assert "a defect" not in errors
    assert "closed to you" in errors


def test_a_run_on_plain_kernels_says_so(runs: Path, capsys: pytest.CaptureFixture[str]):
    folder = make(runs, "mine")
    folder.write_status("replay", 0, {"size": 10})
    folder.write_status("driver", 0, {"processes": {"replay-0": {"plain_kernels": "there is no C compiler"}}})
    record = RunFolder.open(folder.path)
    assert describe(record)["processes"]["replay-0"]["plain_kernels"] == "there is no C compiler"
    assert main(["status", "mine", "--runs", str(runs)]) == 0
    assert "several times slower: replay-0: there is no C compiler" in capsys.readouterr().out


def test_counts_are_whole_and_no_process_runs_in_a_run_that_has_ended(runs: Path, capsys: pytest.CaptureFixture[str]):
    folder = make(runs, "mine")
    folder.write_status("driver", 0, {"processes": {"replay-0": {"state": "running", "pid": 7}}})
    folder.write_status("replay", 0, {"size": 10_613.0, "samples_per_insert": 15.26, "notice": "", "log_bytes": 0.0})
    assert main(["status", "mine", "--runs", str(runs)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "replay-0" in line)
    assert "size 10,613, samples_per_insert 15.26, log_bytes 0 " in line
    assert " ended " in line


def test_a_driver_that_ends_by_itself_meanwhile_is_stopped_all_the_same(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = make(runs, "mine")
    folder.update_manifest(state="running")

    def holder(_: RunFolder) -> int | None:
        return None if folder.manifest["state"] == "finished" else 1

    def gone(_pid: int, _number: int) -> None:
        folder.update_manifest(state="finished")
        raise ProcessLookupError

    monkeypatch.setattr(lease, "holder", holder)
    monkeypatch.setattr(os, "kill", gone)
    assert main(["stop", "mine", "--runs", str(runs)]) == 0
    assert "mine: finished" in capsys.readouterr().out
