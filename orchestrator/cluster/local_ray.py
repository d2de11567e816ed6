"""The private folder of a local Ray. It comes before `import ray`: Ray reads its security mode once, there."""

import os
import secrets
import socket
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from upcycle.config.run import ClusterConfig
from upcycle.errors import UpcycleError, UserError

_MODE: Final = "RAY_AUTH_MODE"
_TOKEN_PATH: Final = "RAY_AUTH_TOKEN_PATH"
_NICENESS: Final = "RAY_worker_niceness"
_PROXY: Final = "RAY_grpc_enable_http_proxy"
_PATIENCE: Final = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_agent_register_timeout_ms": "300000",  # a raylet ends itself when its agents are not up by then
    "RAY_worker_register_timeout_seconds": "300",  # a worker that takes longer is killed, and another one started
}
"""How long Ray's daemons wait for their children: its own 30 to 60 s are too short on a machine under load."""
_PREFIX: Final = "up-"
_TOKEN: Final = "token"
_PLACES: Final = ("/tmp", "/var/tmp", "/dev/shm")
_MAX_PATH_BYTES: Final = 107  # of a Unix socket, on Linux; 103 elsewhere
BELOW_BYTES: Final = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.9")
"""What Ray puts below its folder, at its longest."""


class StartStopped(UpcycleError):
    """Somebody asked for the end while Ray was starting."""


def address_to_join(cluster: ClusterConfig) -> str | None:
    """The Ray to join: the one that the configuration names or that runs this job; None if a local one is to start."""
    return cluster.address or os.environ.get("RAY_ADDRESS")


def usable_places() -> list[Path]:
    """Folders to try, the best first: this process's temporary one, the user's run-time one, those of the system."""
    names = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), *_PLACES)
    return [Path(name) for name in dict.fromkeys(filter(None, names)) if os.path.isabs(name)]


def why_unusable(folder: Path) -> str | None:
    """Why Ray's sockets cannot live below a folder, or None: a path that is too long, no sockets, no right to write."""
    longest = _MAX_PATH_BYTES if os.uname().sysname == "Linux" else _MAX_PATH_BYTES - 4
    num_bytes = len(os.fsencode(folder)) + BELOW_BYTES
    if num_bytes > longest:
        return f"its sockets' paths would have {num_bytes} bytes of {longest} at the most"
    probe = folder / "probe".ljust(BELOW_BYTES - 1, "-")
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(str(probe))
        except OSError as error:
            return f"no socket can be made there ({error.strerror or error})"
        finally:
            probe.unlink(missing_ok=True)
    return None


@contextmanager
def socket_folder(places: Sequence[Path] | None = None) -> Generator[Path]:
    """A new folder of this user alone (0700), with a path so short that Ray's sockets fit below it; removed at the end.

    Paths of Unix sockets end at 107 bytes, which a TMPDIR of a batch system may nearly use up: the first of
    `usable_places` is taken in which a socket can be made. Raises: UserError that says why none will do.
    """
    reasons = list[str]()
    for place in usable_places() if places is None else places:
        with ExitStack() as resources:
            try:
                made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True)
            except OSError as error:
                reasons.append(f"{place}: {error.strerror or error}")
                continue
            folder = Path(resources.enter_context(made))
            reason = why_unusable(folder)
            if reason is None:
                yield folder
                return
            reasons.append(f"{place}: {reason}")
    problem = f"no folder takes the sockets of a local Ray ({'; '.join(reasons)})"
    raise UserError("TMPDIR", tempfile.gettempdir(), problem, "set it to a short path that you may write to")


def way_to_dashboard(address: str, folder: Path) -> str:
    """What a person needs for a local Ray's dashboard: its URL, and the token of `private_folder` if it asks for it."""
    line, token = f"Ray's dashboard: http://{address}", folder / _TOKEN
    return f"{line} (asks for this run's token: {token.read_text(encoding='ascii')})" if token.exists() else line


@contextmanager
def private_folder() -> Generator[Path]:
    """A `socket_folder` for a local Ray's sockets and logs, with a token in it that Ray will ask for.

    Ray listens on all interfaces whatever it is told, so the token is what keeps the network out. Its workers run as
    urgently as their owner, not at Ray's own nice level of 15, at which they would get next to nothing beside anything
    else on the machine, and its daemons wait longer for their children than they would by themselves. A user's own
    variables for these are respected; a proxy is not, since nothing of a local Ray is beyond one.
    """
    own = {name: os.environ.get(name) for name in (_MODE, _TOKEN_PATH, _NICENESS, _PROXY, *_PATIENCE)}
    with socket_folder() as folder:
        if own[_MODE] is None:
            token = folder / _TOKEN
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="ascii")
            os.environ |= {_MODE: "token", _TOKEN_PATH: str(token)}
        for name, value in ({_NICENESS: "0"} | _PATIENCE).items():
            os.environ.setdefault(name, value)
        os.environ[_PROXY] = "0"
        try:
            yield folder
        finally:
            for variable, value in own.items():
                os.environ.pop(variable, None)
                if value is not None:
                    os.environ[variable] = value
