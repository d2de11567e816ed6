"""Starting a local Ray: as patiently as a loaded machine needs, saying what it waits for, and leaving nothing behind.

    gcs_server --> dashboard --> raylet --> the raylet's two agents --> the node is registered: Ray is up

Ray itself gives some of these 30 s, then raises and leaves running what it has started; on a machine under load that
is too short, and a second try beside the remains of the first is slower still. So there is one try. It ends when Ray is
up, when one of its daemons has died, when somebody stops it, or after `START_SECONDS`; and unless Ray is up, every
process of it is gone.
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import psutil
import ray

from orchestrator.cluster.local_ray import StartStopped
from upcycle.errors import UpcycleError
from upcycle.runs.runtime import Stop

START_SECONDS: Final = 300.0
"""Longest time for a local Ray to come up."""
_SAY_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.05
_END_SECONDS: Final = 10.0  # for killed processes to be gone
_VITAL: Final = ("gcs_server", "raylet")
_AWAITED: Final = (
    (("agent",), "the raylet's agents"),
    (("raylet",), "its raylet"),
    (("dashboard", "log_monitor"), "its dashboard"),
    (("gcs_server",), "its gcs_server"),
)
"""What is being waited for, by the newest process there is. (Ray starts a dashboard's process in any case.)"""


class RayFailed(UpcycleError):
    """Ray has not come up; all its processes are gone."""


def start_local(
    folder: Path, options: Mapping[str, Any], say: Callable[[str], None], stop: Stop, seconds: float = START_SECONDS
) -> str | None:
    """Starts a Ray in a private folder and connects this process to it.

    Returns: host:port of its dashboard; None without one.

    Args:
      options: for `ray.init`.
      say: called from another thread with a line every ten seconds.
      stop: looked at while waiting.
    Raises: StartStopped; RayFailed with the reason. No process of this Ray is left in either case, nor after any other
      exception.
    """
    started = time.monotonic()
    watch = Watch(folder, say, stop, seconds)
    try:
        with watch, own_sessions(), patience(watch):
            context = cast(Any, ray.init(address="local", _temp_dir=str(folder), **options))
    except BaseException as error:
        ray.shutdown()
        end_processes(folder)
        if isinstance(error, (RuntimeError, TimeoutError, ConnectionError)) or type(error) is Exception:
            raise RayFailed(watch.problem() or str(error)) from error  # a bare Exception is Ray's own
        raise
    if time.monotonic() - started > _SAY_SECONDS:
        say(f"Ray is up after {time.monotonic() - started:.0f} s")
    return context.dashboard_url or None


def end_processes(folder: Path) -> None:
    """Kills the children of this process that work in a Ray's folder, with all that they have started, and waits."""
    processes = dict[int, psutil.Process]()
    for process in ray_processes(folder):
        with suppress(psutil.Error):
            processes |= {child.pid: child for child in (*process.children(recursive=True), process)}
    for process in processes.values():
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes.values()), _END_SECONDS)


def ray_processes(folder: Path) -> list[psutil.Process]:
    """This process's children, theirs included, whose command line names a Ray's folder."""
    found = list[psutil.Process]()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found


class Watch:
    """Looks at a Ray that starts: what it waits for, and whether that can still come. A context manager.

    Args: as of `start_local`.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], stop: Stop, seconds: float) -> None:
        self._folder, self._say, self._stop, self._seconds = folder, say, stop, seconds
        self._started = time.monotonic()
        self._seen = dict[int, tuple[str, psutil.Process]]()
        self._problem: str | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_and_say, name="ray-start", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Returns while it is worth waiting on. Raises: StartStopped, RayFailed."""
        if self._stop.is_set():
            raise StartStopped
        if self._problem is None and time.monotonic() - self._started > self._seconds:
            self._problem = f"after {self._seconds:.0f} s it still waits for {self._awaited()}"
        if self._problem is not None:
            raise RayFailed(self._problem)

    def problem(self) -> str | None:
        """Why Ray cannot come up any more, as far as is known."""
        return self._problem

    def line(self) -> str:
        """How long it has taken, and what is being waited for."""
        return f"starting Ray: {time.monotonic() - self._started:.0f} s so far, waiting for {self._awaited()}"

    def _look_and_say(self) -> None:
        say_at = self._started + _SAY_SECONDS
        while not self._done.wait(_LOOK_SECONDS):
            self._look()
            if time.monotonic() >= say_at:
                self._say(self.line())
                say_at += _SAY_SECONDS

    def _look(self) -> None:
        for process in ray_processes(self._folder):
            if process.pid not in self._seen:
                with suppress(psutil.Error):
                    self._seen[process.pid] = (_daemon(process.cmdline()), process)
        for name, process in list(self._seen.values()):
            if name in _VITAL and _is_dead(process) and self._problem is None:
                self._problem = f"its {name} has died{_last_words(self._folder, name)}"

    def _awaited(self) -> str:
        names = {name for name, _ in list(self._seen.values())}
        return next((what for known, what in _AWAITED if names & set(known)), "its first process")


@contextmanager
def own_sessions() -> Generator[None]:
    """Ray's daemons that start meanwhile have sessions of their own.

    A terminal that closes tells its whole session, and `timeout` or a batch system the whole process group. That is
    for the driver, which needs them for its end; left alone, they end with it.
    """
    services = cast(Any, ray)._private.services
    launch = services.ConsolePopen
    services.ConsolePopen = partial(launch, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = launch


@contextmanager
def patience(watch: Watch) -> Generator[None]:
    """Puts waits that ask `watch` in the place of Ray's own two, whose 30 s cannot be set from outside.

    Ray's own wait for the port of the gcs_server can be, but it holds the interpreter's lock and does not see a
    gcs_server that has died.
    """
    node, services = cast(Any, ray)._private.node, cast(Any, ray)._private.services
    wait_for_port, get_node = node.wait_for_persisted_port, services.get_node

    def wait_for_port_patiently(session: str, node_id: str, name: str, **options: Any) -> int:
        while not Path(session, node.get_port_filename(node_id, name)).exists():
            watch.check()
            time.sleep(_POLL_SECONDS)
        return int(wait_for_port(session, node_id, name, **options))

    def get_node_patiently(gcs_address: str, node_id: str) -> Any:
        nodes = cast(Any, ray)._private.state.GlobalState()
        nodes._initialize_global_state(services._get_gcs_client_options(gcs_address))
        while node_id not in (known["NodeID"] for known in nodes.node_table()):
            watch.check()
            time.sleep(_POLL_SECONDS)
        return get_node(gcs_address, node_id)

    node.wait_for_persisted_port, services.get_node = wait_for_port_patiently, get_node_patiently
    try:
        yield
    finally:
        node.wait_for_persisted_port, services.get_node = wait_for_port, get_node


def _daemon(command: Sequence[str]) -> str:
    """Which of Ray's daemons a command line is; empty for others."""
    if not command:
        return ""
    program = Path(command[0]).name
    if program in _VITAL:
        return program
    scripts = [Path(word).stem for word in command if word.endswith(".py")]
    return "agent" if set(scripts) & {"agent", "main"} else scripts[0] if scripts else ""


def _is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _last_words(folder: Path, name: str) -> str:
    """The last line of a daemon's logs: they go away with the folder."""
    for log in sorted(folder.glob(f"session_2*/logs/{name}*"), key=lambda path: path.name.endswith(".out")):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return f": {lines[-1].strip()}"
    return ""
