"""Workers for a local Ray in milliseconds: forked from a process that has imported what they need.

    raylet --> orchestrator.cluster.fork_request --socket--> fork server --fork--> Ray's own worker program

A process of a run imports for some seconds of CPU time before it does anything, and all of them do so at the same time.
The fork server imports once. It has one thread and has computed nothing, so that what it forks is as good as new; if
some library should start a thread while it is imported, the server ends instead, and Ray starts workers as it always
does. The server ends with the process that started it; its forks are Ray's workers like any other and end with Ray.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from orchestrator.cluster.parent_death import end_with_parent

MODULES: Final = (
    "ray._private.workers.default_worker",
    "orchestrator.cluster.ray_cluster",
    "orchestrator.processes.replay_shard",
    "orchestrator.processes.learner",
    "orchestrator.processes.evaluator",
    "actors.actor",
    "actors.weights",
)
"""What the processes of a run import."""
JOB: Final = "RAY_JOB_ID"
_FIRST_JOB: Final = "01000000"  # the only one of a local Ray is the run's
RAYLET: Final = "RAY_RAYLET_PID"
"""Ray reads these two when it is imported. A worker ends within a second of the process of that number: the driver."""
_MAX_REQUEST_BYTES: Final = 1 << 20
SOCKET: Final = "fork"
"""Name of its socket."""
_BACKLOG: Final = 128
_STOP_SECONDS: Final = 5.0


@contextmanager
def fork_server(folder: Path, task: str) -> Generator[Path]:
    """A fork server, beginning to import; yields the path of its socket, which lies in `folder`, and ends it at last.

    Args:
      folder: of this user alone: whoever can connect can start processes.
      task: EnvPool's, whose family is imported as well.
    """
    path = folder / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(_BACKLOG)  # requests wait here while it imports
        command = [sys.executable, "-m", "orchestrator.cluster.fork_server", str(listener.fileno()), task, str(folder)]
        # NumPy's BLAS starts threads when it is imported, unless it may use one only.
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": package_path(),
            JOB: _FIRST_JOB,
            RAYLET: str(os.getpid()),
        }
        with (folder / "fork.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver
            )
    try:
        yield path
    finally:
        if (
            process.poll()
        ):  # it never returns 0: that is what is left of one that was ended, and waited for, with its Ray
            lines = (folder / "fork.log").read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {process.returncode}"
            print(f"upcycle: workers were started without the fork server, which has ended: {reason}", file=sys.stderr)
        process.kill()
        process.wait(_STOP_SECONDS)


def serve(listener: socket.socket) -> None:
    """Forks a worker for each request, for ever. Returns in a fork alone, which is to call `become` then."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here asks how a worker has ended
    while True:
        connection, _ = listener.accept()
        with connection:
            request, streams = _receive(connection)
            if request is not None and os.fork() == 0:
                connection.close()
                listener.close()
                become(request, streams)
        for stream in streams:
            os.close(stream)


def become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Turns this process into the one that was asked for, and ends with it."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = list(request["command"])
    sys.path[0] = str(Path(sys.argv[0]).parent)  # as `python FILE` has it
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A request and the three streams that come with it; None if whoever asked has gone."""
    streams = list[int]()
    try:
        data, streams, flags, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 3)
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(streams) != 3:
            return None, streams
        request = json.loads(data)
        connection.send(b"1")  # from here on it is ours to start
    except (OSError, ValueError):
        return None, streams
    return request, streams


def package_path() -> str:
    """PYTHONPATH with which another process finds our packages."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def _import_all(task: str) -> None:
    """Imports what the processes of a run need. A task that does not exist is refused elsewhere."""
    for name in MODULES:
        importlib.import_module(name)
    from actors.envs import env_spec
    from upcycle.config.run import EnvConfig
    from upcycle.errors import UserError

    with suppress(UserError):
        env_spec(EnvConfig(task=task))


def _main(listener: socket.socket, task: str) -> None:
    end_with_parent(int(os.environ[RAYLET]))
    _import_all(task)
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads != 1:
        sys.exit(f"{num_threads} threads after the imports: a fork of this process would lack some")
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, all that was imported
    serve(listener)


if __name__ == "__main__":
    _main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
