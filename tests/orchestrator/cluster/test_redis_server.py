import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.redis_server import RedisServer, find_server
from tests.helpers.paths import ROOT
from upcycle.errors import UserError
from upcycle.runs.tracker import Tracker, TrackerRefused, TrackerUnavailable

OWN = """
import sys
from pathlib import Path
from orchestrator.cluster.redis_server import RedisServer
server = RedisServer(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.read()
"""


def test_data_outlives_the_server(tmp_path: Path):
    for n in range(3):
        with RedisServer(tmp_path) as server:
            tracker = Tracker(server.url, "run", password=server.password)
            assert len(tracker.scores()) == n
            tracker.publish_score({"n": n})
            tracker.close()


@pytest.mark.slow
def test_it_ends_when_its_owner_is_killed(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", OWN, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().decode().strip()
        (server,) = psutil.Process(owner.pid).children()
        owner.kill()
        owner.wait(10)
    server.wait(10)
    tracker = Tracker(url, "run")
    with pytest.raises(TrackerUnavailable):
        tracker.ping()
    tracker.close()


def test_it_wants_its_password_which_no_argument_and_no_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started, popen = list[list[str]](), subprocess.Popen[bytes]

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(command)
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    with RedisServer(tmp_path) as server:
        stranger, owner = Tracker(server.url, "run"), Tracker(server.url, "run", password=server.password)
        with pytest.raises(TrackerRefused, match="it wants a password"):
            stranger.ping()
        owner.publish_score({"n": 1})
        password = server.password.get_secret_value().encode()
        (command,) = started
        assert str(find_server()) in command
        assert password.decode() not in " ".join(command)
        assert password.decode() not in f"{vars(owner)} {vars(server)}"
        stranger.close()
        owner.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and password in path.read_bytes()] == []


def test_it_listens_where_it_is_told_and_nowhere_else(tmp_path: Path):
    with RedisServer(tmp_path, "127.0.0.2") as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        assert server.url == f"redis://127.0.0.2:{port}/0"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    with pytest.raises(UserError, match=r"192\.0\.2\.1:0.*cannot be had"):
        RedisServer(tmp_path, "192.0.2.1").start()


def test_a_taken_port_is_a_users_error(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="is taken"):
            RedisServer(tmp_path).start(other.getsockname()[1])


def test_a_server_that_does_not_come_up_is_quoted(tmp_path: Path):
    (tmp_path / "appendonlydir").write_text("in the way")
    started = time.monotonic()
    with pytest.raises(UserError, match="did not start"):
        RedisServer(tmp_path).start()
    assert time.monotonic() - started < 30  # it noticed the death, it did not wait for a deadline each time


def test_the_server_program_is_executable():
    assert os.access(find_server(), os.X_OK)
