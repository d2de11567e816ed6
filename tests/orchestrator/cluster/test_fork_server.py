"""Workers forked from a process with everything imported: what they are given, and what happens without one."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import fork_request
from orchestrator.cluster.fork_server import MODULES, SOCKET, fork_server
from orchestrator.cluster.ray_start import end_processes, ray_processes
from tests.helpers.paths import ROOT
from tests.helpers.runs import wait_until

pytestmark = pytest.mark.slow

SERVER = "import socket; from orchestrator.cluster.fork_server import serve; serve(socket.socket(fileno={fileno}))"
WORKER = """
import json, os, sys, time
print(json.dumps({
    "name": __name__, "argv": sys.argv, "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0),
    "directory": os.getcwd(), "mine": os.environ.get("MINE"), "servers": os.environ.get("SERVERS"),
    "path": sys.path[0], "num_files": len(os.listdir("/proc/self/fd")),
}), flush=True)
while "stay" in sys.argv:
    time.sleep(0.1)
sys.exit(3)
"""
SETUP = "import json, sys; print(json.dumps(['set up by Ray', *sys.argv[1:]]))"
PLAIN = ("--serialized-runtime-env-context={}", "--language=PYTHON")


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    (tmp_path / "setup_worker.py").write_text(SETUP)
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    path = tmp_path / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        code = SERVER.format(fileno=listener.fileno())
        environment = os.environ | {"SERVERS": "own"}
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, pass_fds=[listener.fileno()]
        )
    yield path, process
    for child in psutil.Process(process.pid).children():
        child.kill()
    process.kill()
    process.wait(10)


def ask(worker: Path, *arguments: str, server: Path | None, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | variables | ({} if server is None else {fork_request.VARIABLE: str(server)})
    command = [sys.executable, fork_request.__file__, *arguments]
    return subprocess.run(
        command, cwd=worker.parent, env=environment, capture_output=True, text=True, check=True, timeout=60
    )


def test_a_fork_is_what_was_asked_for(worker: Path, server: tuple[Path, "subprocess.Popen[bytes]"]):
    path, process = server
    done = ask(worker, *PLAIN, str(worker), "--id=7", server=path, MINE="yes")
    known = json.loads(done.stdout)  # it was given the streams of whoever asked
    assert known["name"] == "__main__"
    assert known["argv"] == [str(worker), "--id=7"]
    assert known["parent"] == process.pid
    assert known["group"] == known["pid"], "a signal to it must reach no other"
    assert known["directory"] == str(worker.parent)
    assert (known["mine"], known["servers"]) == ("yes", None), "its environment is the asker's, not the server's"
    assert known["path"] == str(worker.parent)
    assert known["num_files"] <= 4, "the server's sockets stay with the server"
    wait_until(lambda: not psutil.Process(process.pid).children())  # reaped although nobody waits for them


def test_a_fork_may_be_killed_and_the_server_forks_on(worker: Path, server: tuple[Path, "subprocess.Popen[bytes]"]):
    path, process = server
    asking = subprocess.Popen(
        [sys.executable, fork_request.__file__, str(worker), "stay"],
        cwd=worker.parent,
        env=os.environ | {fork_request.VARIABLE: str(path)},
        stdout=subprocess.PIPE,
    )
    assert asking.stdout is not None
    pid = int(json.loads(asking.stdout.readline())["pid"])
    assert asking.wait(60) == 0, "who asks has nothing more to do"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid))
    assert json.loads(ask(worker, str(worker), server=path).stdout)["parent"] == process.pid
    asking.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "has_server"),
    [
        (PLAIN, False),
        (('--serialized-runtime-env-context={"env_vars": {"A": "1"}}', "--language=PYTHON"), True),
        (("--serialized-runtime-env-context={}", "--language=JAVA"), True),
        (("--serialized-runtime-env-context=broken", "--language=PYTHON"), True),
    ],
    ids=["no server", "own environment", "other language", "unreadable"],
)
def test_without_a_server_or_for_another_kind_of_worker_ray_sets_it_up(
    worker: Path, server: tuple[Path, "subprocess.Popen[bytes]"], arguments: tuple[str, ...], has_server: bool
):
    path, _ = server
    done = ask(worker, *arguments, str(worker), "--id=7", server=path if has_server else path.with_name("nobody"))
    assert json.loads(done.stdout) == ["set up by Ray", *arguments, str(worker), "--id=7"]


def test_a_server_that_has_threads_after_its_imports_ends(worker: Path, tmp_path: Path):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    code = (
        "import socket; from orchestrator.cluster import fork_server; fork_server.MODULES = ('starts_a_thread',); "
        "fork_server._main(socket.socket(), 'Catch-v0')"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "RAY_RAYLET_PID": str(os.getpid())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "threads after the imports" in done.stderr


def test_a_server_that_has_ended_by_itself_is_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    before = {child.pid for child in psutil.Process().children()}
    with fork_server(tmp_path, "Catch-v0"):
        (child,) = [child for child in psutil.Process().children() if child.pid not in before]
        wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
    assert "without the fork server, which has ended: exit code 1" in capsys.readouterr().err


def test_a_server_that_was_ended_with_its_ray_is_not_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Psutil has then waited for it, and all that `Popen` finds is an exit code of 0."""
    with fork_server(tmp_path, "Catch-v0"):
        wait_until(lambda: ray_processes(tmp_path))
        end_processes(tmp_path)
    assert capsys.readouterr().err == ""


def test_the_server_ends_with_the_driver(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.cluster.fork_server import fork_server\n"
        "with fork_server(Path(sys.argv[1]), 'Catch-v0'):\n    print('up', flush=True); time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "up\n"
    (child,) = psutil.Process(driver.pid).children()
    wait_until(lambda: "orchestrator.cluster.fork_server" in child.cmdline())  # and not yet anything of its own
    driver.kill()
    driver.wait(10)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    driver.stdout.close()


def test_the_modules_of_a_run_start_no_thread_and_stay_the_ones_that_processes_import():
    code = (
        "import importlib, os\nfrom orchestrator.cluster.fork_server import MODULES\n"
        "for name in MODULES: importlib.import_module(name)\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "1", done.stderr
    assert len(set(MODULES)) == len(MODULES)
