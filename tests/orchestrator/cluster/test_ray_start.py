"""A local Ray that does not come up: it is waited for, it says for what, and nothing of it is left."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from ray._private import services

from orchestrator.cluster import ray_start
from orchestrator.cluster.local_ray import StartStopped
from orchestrator.cluster.ray_start import RayFailed, Watch, end_processes, own_sessions, ray_processes
from tests.helpers.paths import ROOT
from tests.helpers.runs import wait_until
from upcycle.runs.runtime import StopSignal

pytestmark = pytest.mark.slow

STARTS = """
import json, sys
import psutil
from orchestrator.cluster.local_ray import StartStopped, private_folder
from upcycle.runs.runtime import StopSignal

options = {"include_dashboard": False, "object_store_memory": 80 << 20, "num_cpus": 1, "log_to_driver": False}
options |= {"_node_ip_address": "127.0.0.2", "logging_level": "ERROR"}

def start(what, seconds=300.0, disturb=None):
    stop, lines = StopSignal(), []
    def say(line):
        lines.append(line)
        if disturb is not None:
            disturb(folder, line, stop)
    try:
        ray_start.start_local(folder, options, say, stop, seconds)
        outcome = "up"
    except (StartStopped, ray_start.RayFailed) as error:
        outcome = f"{type(error).__name__}: {error}"
    left = [" ".join(child.cmdline())[:80] for child in psutil.Process().children(recursive=True)]
    print(json.dumps({"what": what, "outcome": outcome, "left": left, "lines": lines}), flush=True)

def launch(command, *rest, **options):  # a raylet that never comes up
    if command[0].endswith("raylet"):
        options |= {"executable": sys.executable}
        command = ["raylet", "-c", f"import time; time.sleep(600); {str(folder)!r}"]
    return original(command, *rest, **options)

def stop_at_raylet(folder, line, stop):
    if line.endswith("waiting for its raylet"):
        stop.set()

with private_folder() as folder:  # one for all, and before Ray is imported: it reads its token and mode once
    from orchestrator.cluster import ray_start
    from ray._private import services
    ray_start._SAY_SECONDS = 1.0
    start("too late", seconds=0.0)
    original, services.ConsolePopen = services.ConsolePopen, launch
    start("stopped", disturb=stop_at_raylet)
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_ray_that_does_not_come_up_leaves_no_process():
    """In a process of its own: Ray's client ends the process that it finds without its server."""
    done = subprocess.run([sys.executable, "-c", STARTS], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    starts = {start["what"]: start for start in map(json.loads, done.stdout.splitlines())}
    assert all(start["left"] == [] for start in starts.values()), starts
    assert starts["too late"]["outcome"].startswith("RayFailed: after 0 s it still waits for its")
    assert starts["stopped"]["outcome"].startswith("StartStopped")
    assert starts["stopped"]["lines"][-1].endswith("waiting for its raylet")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="up-") as name:
        yield Path(name)
        end_processes(Path(name))


def pretend(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A process that looks like one of Ray's."""
    if name in ("gcs_server", "raylet"):
        words = [name, "-c", f"import time; time.sleep(600); {str(folder)!r}"]
        return subprocess.Popen(words, executable=sys.executable)
    script = folder / f"{name}.py"
    script.write_text("import time; time.sleep(600)", encoding="utf-8")
    return subprocess.Popen([sys.executable, str(script)])


def test_it_says_what_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_start, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(ray_start, "_SAY_SECONDS", 0.0)
    said, before = list[str](), set(psutil.Process().children())  # other tests' helpers may live on
    with ExitStack() as processes, Watch(folder, said.append, StopSignal(), 300.0) as watch:
        assert watch.line() == "starting Ray: 0 s so far, waiting for its first process"
        for name, awaited in (
            ("gcs_server", "its gcs_server"),
            ("dashboard", "its dashboard"),
            ("raylet", "its raylet"),
            ("agent", "the raylet's agents"),
        ):
            processes.enter_context(pretend(folder, name))
            wait_until(lambda: said and said[-1].endswith(f"waiting for {awaited}"))  # noqa: B023
            watch.check()
        end_processes(folder)
        wait_until(lambda: watch.problem() is not None)
        with pytest.raises(RayFailed, match=r"its (gcs_server|raylet) has died"):
            watch.check()
        assert ray_processes(folder) == []
    assert set(psutil.Process().children()) <= before


def test_the_end_of_patience_and_a_stop_are_told_apart(folder: Path):
    stop = StopSignal()
    with pytest.raises(RayFailed, match="still waits for its first process"):
        Watch(folder, print, stop, -1.0).check()
    stop.set()
    with pytest.raises(StartStopped):
        Watch(folder, print, stop, -1.0).check()


def test_the_reason_of_a_death_is_the_last_line_of_its_log(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_start, "_LOOK_SECONDS", 0.02)
    logs = folder / "session_2026-01-01" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("first\nno space left\n\n")
    with pretend(folder, "raylet") as raylet, Watch(folder, print, StopSignal(), 300.0) as watch:
        wait_until(lambda: watch.line().endswith("its raylet"))
        raylet.kill()
        wait_until(lambda: watch.problem() is not None)
        assert watch.problem() == "its raylet has died: no space left"


def test_what_is_for_the_drivers_process_group_does_not_reach_rays_daemons():
    with own_sessions():
        launch = services.ConsolePopen
        with launch(["sleep", "60"]) as daemon:
            assert os.getsid(daemon.pid) == daemon.pid != os.getsid(0)
            daemon.kill()
    assert services.ConsolePopen is not launch
