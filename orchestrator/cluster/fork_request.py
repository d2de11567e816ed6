"""What a local Ray runs in place of its own set-up script: it asks the fork server for the worker, and is done.

Imports nothing of ours and nothing heavy: each worker waits for it. Without a fork server that answers, or for a worker
that needs an environment of its own, it becomes what Ray would have run.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "UPCYCLE_FORK_SERVER"
"""Path of the fork server's socket."""
_ANSWER_SECONDS = 120.0  # it may still be importing, on a machine under load
_SETUP = "setup_worker.py"
_OWN = ("--serialized-runtime-env-context", "--language")
"""Options of Ray's set-up script; the worker does not know them."""


def main(arguments: Sequence[str]) -> None:
    """Hands the worker's command line, environment and standard streams on; or becomes Ray's own set-up script."""
    own = [word for word in arguments if word.partition("=")[0] in _OWN]
    command = [word for word in arguments if word not in own]
    while command and command[0].startswith("-"):  # flags of the interpreter
        command.pop(0)
    if not command:
        sys.exit("fork_request: no worker named")
    if _is_plain(own) and (path := os.environ.get(VARIABLE)) and _hand_on(path, command):
        return
    setup = Path(command[0]).with_name(_SETUP)
    os.execv(sys.executable, [sys.executable, str(setup), *arguments])  # Ray's own command, after all


def _is_plain(own: Sequence[str]) -> bool:
    """Whether the worker is a Python one without an environment of its own."""
    values = {name: value for name, _, value in (word.partition("=") for word in own)}
    try:
        context: dict[str, object] = json.loads(values.get(_OWN[0]) or "{}")
    except ValueError:
        return False
    return values.get(_OWN[1], "PYTHON") == "PYTHON" and not any(
        context.get(key) for key in ("env_vars", "command_prefix", "override_worker_entrypoint")
    )


def _hand_on(path: str, command: Sequence[str]) -> bool:
    """Whether a fork server has taken it over."""
    request = {"command": list(command), "environment": dict(os.environ), "directory": os.getcwd()}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.settimeout(_ANSWER_SECONDS)
            server.connect(path)
            socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
            return server.recv(1) != b""
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
