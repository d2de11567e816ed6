"""Readers that go away, terminals that hang up, full disks, closed descriptors: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

TALK = """
import sys
from rich.console import Console
from upcycle.streams import leavable_streams
with leavable_streams():
    for number in range(3000):
        print("result", number)
        print("progress", number, file=sys.stderr, flush=True)
    Console().print("a table")
    Console(stderr=True).print("a panel")
    open({done!r}, "x").close()
sys.exit(7)
"""


def talk(tmp_path: Path, redirections: str) -> subprocess.CompletedProcess[str]:
    """Talks as `redirections` of a shell say, and ends with 7; `tmp_path / "done"` is there if it came to its end."""
    code = tmp_path / "talk.py"
    code.write_text(TALK.format(done=str(tmp_path / "done")))
    command = ["bash", "-c", f"{sys.executable} {code} {redirections}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=50
    )


@pytest.mark.parametrize(
    "redirections",
    [
        "| head -1; exit ${PIPESTATUS[0]}",
        "2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "2>&1 | true; exit ${PIPESTATUS[0]}",
        ">&- 2>&-",
        ">&-",
        "2>&-",
        "2>/dev/full",
        "<&-",
    ],
)
def test_work_goes_on_and_ends_as_it_would(redirections: str, tmp_path: Path):
    ended = talk(tmp_path, redirections)
    assert ended.returncode == 7, ended.stderr
    assert (tmp_path / "done").exists()
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr
    if redirections == "2>&-":
        assert "progress" not in ended.stdout  # which is for results


def test_results_that_find_no_room_are_an_error(tmp_path: Path):
    ended = talk(tmp_path, ">/dev/full")
    assert ended.returncode == 1
    assert "standard output" in ended.stderr
    assert "No space left on device" in ended.stderr
    assert not (tmp_path / "done").exists()


def test_files_never_get_the_numbers_of_the_standard_streams(tmp_path: Path):
    code = "import os, upcycle.streams as s\nwith s.leavable_streams():\n os._exit(open('file', 'w').fileno())"
    command = ["bash", "-c", f'{sys.executable} -c "{code}" <&- >&- 2>&-']
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=50).returncode > 2
