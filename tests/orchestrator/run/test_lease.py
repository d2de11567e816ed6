import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.run import lease
from tests.helpers.paths import ROOT
from upcycle.config.io import parse_config
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.run import lease
from upcycle.runs.run_folder import RunFolder
with lease.hold(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", parse_config({"phases": ["rl"]}))


@pytest.mark.slow
def test_one_driver_at_a_time_and_the_kernel_takes_the_lease_back(folder: RunFolder):
    assert lease.holder(folder) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert lease.holder(folder) == other.pid
        with pytest.raises(UserError, match=f"process {other.pid}"), lease.hold(folder):
            pass
        other.kill()
        other.wait(10)
    assert lease.holder(folder) is None
    with lease.hold(folder):
        pass


def test_looking_needs_no_right_to_write(folder: RunFolder, monkeypatch: pytest.MonkeyPatch):
    with lease.hold(folder):
        pass
    opened, real = list[str](), Path.open

    def watched(path: Path, mode: str = "r", **options: Any) -> Any:
        opened.append(mode)
        return real(path, mode, **options)

    monkeypatch.setattr(Path, "open", watched)
    assert lease.holder(folder) is None
    assert opened == ["r"]


def test_those_who_look_neither_see_one_another_nor_keep_a_driver_away(folder: RunFolder):
    with lease.hold(folder):
        pass
    looking = os.open(folder.path / "driver.lock", os.O_RDONLY)
    try:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert lease.holder(folder) is None  # not the process id that the driver before has left there
        leaves = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        leaves.start()
        with lease.hold(folder):
            leaves.join()
    finally:
        os.close(looking)
