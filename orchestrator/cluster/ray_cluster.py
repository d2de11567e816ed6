"""Ray: where the processes of a run live. They are named actors, so that the dashboard shows who is who.

Ray places and isolates them and reports their death; experience and weights never pass through it. Restarts are
decided by our own supervisor, which knows crash loops, so Ray's are off.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import ray
from pydantic import SecretStr
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from orchestrator.cluster.fork_server import SOCKET, package_path
from orchestrator.cluster.lean_ray import lean_daemons
from orchestrator.cluster.local_ray import address_to_join, way_to_dashboard
from orchestrator.cluster.placement_groups import Places
from orchestrator.cluster.ray_start import RayFailed, end_processes, start_local
from orchestrator.processes.context import Role
from orchestrator.processes.process import Process
from upcycle.config.run import ClusterConfig, RunConfig
from upcycle.errors import UserError
from upcycle.runs.runtime import Stop
from upcycle.runs.waits import Wait

_CONNECT_SECONDS: Final = 3.0
_OBJECT_STORE_BYTES: Final = 80 << 20  # nothing large goes through it
_LOCAL_ADDRESS: Final = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's outward address


class ProcessActor:
    """The Ray side of one `Process`; every method answers at once or within its timeout."""

    def __init__(self, role: Role, index: int, run: str, password: SecretStr | None, threads: int) -> None:
        _use_threads(threads)
        self._process = Process(role, index, Path(run), _node_address(), password)
        self._process.start()

    def status(self) -> dict[str, Any]:
        """See `Process.status`."""
        return self._process.status()

    def stop(self, timeout_seconds: float) -> bool:
        """See `Process.stop`."""
        return self._process.stop(timeout_seconds)


@dataclass(slots=True, eq=False)
class Handle:
    """One process as the driver sees it.

    Attributes:
      waiting: the CPUs and GPUs that it and others wait for, and what there is; None once it has a place.
      since: when it was asked for, or got its place, Unix seconds.
      died: why it is gone; None while it is not known to be.
      status: its newest answer; empty before the first.
    """

    role: Role
    index: int
    run: Path
    actor: Any = None
    waiting: str | None = None
    since: float = field(default_factory=time.time)
    died: str | None = None
    status: dict[str, Any] = field(default_factory=dict[str, Any])
    pending: Any = None

    @property
    def name(self) -> str:
        """Role and index."""
        return f"{self.role}-{self.index}"

    @property
    def detail(self) -> dict[str, Any]:
        """What its loop says; empty until there is one."""
        return cast(dict[str, Any], self.status.get("detail", {}))

    @property
    def state(self) -> str:
        """It is "waiting" for a place, "starting" until its first answer, has "died", or as it says itself."""
        if self.died is not None:
            return "died"
        return "waiting" if self.waiting is not None else str(self.status.get("state", "starting"))

    @property
    def wait(self) -> Wait | None:
        """What it waits for; None while it works."""
        if self.waiting is not None:
            return Wait("cpus", self.since, self.waiting)
        if not self.status:
            return Wait("start", self.since, "it has not answered yet")
        return Wait.from_json(self.status.get("waiting"))


class Cluster:
    """A connection to Ray: the cluster at an address, the one that runs this job, or a local one of our own.

    A context manager; leaving it ends the processes, and the local cluster with them.

    Args:
      config: of the run.
      namespace: unique to the run; names of processes are looked up within it.
      folder: of `local_ray.private_folder` for a local Ray; None joins the one at `local_ray.address_to_join`.
      say: called, perhaps from another thread, with a line about a start that takes long.
      stop: ends a start.
    Attributes:
      redis_password: what processes that are started from now on are told.
    Raises: UserError if the address does not answer or is of a kind that cannot be used, if a local Ray does not start,
      or if the run can never fit; StartStopped.
    """

    def __init__(
        self, config: RunConfig, namespace: str, folder: Path | None, say: Callable[[str], None], stop: Stop
    ) -> None:
        self._config, self._folder = config, folder
        self.redis_password: SecretStr | None = None
        self._lean = folder is not None and (folder / SOCKET).exists()
        address = address_to_join(config.cluster)
        options: dict[str, Any] = {
            "namespace": namespace,
            "log_to_driver": False,
            "logging_level": "ERROR",
            "configure_logging": True,
        }
        try:
            if folder is not None:
                with lean_daemons(folder / SOCKET) if self._lean else nullcontext():
                    dashboard = start_local(folder, options | _local_options(config.cluster), say, stop)
                if dashboard is not None and config.cluster.dashboard:
                    say(way_to_dashboard(dashboard, folder))
            else:
                assert address is not None
                _check_address(address)
                ray.init(address=address, **options)
        except (ConnectionError, RayFailed, RuntimeError, TimeoutError, ValueError) as error:
            text = str(error).strip().splitlines()
            problem = f"Ray does not start or answer ({text[0] if text else type(error).__name__})"
            remedy = "check `ray status` there" if address else "see what `upcycle doctor` says"
            raise UserError("cluster.address", address or "local", problem, remedy) from error
        try:
            self._places = Places(config, namespace, address or "local")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def node_address(self) -> str:
        """Address of the driver's machine within the cluster."""
        return _node_address()

    def start(self, role: Role, index: int, run: Path) -> Handle:
        """Asks for one process. `poll` starts it once there is a place for it, and tells of its death."""
        return Handle(role, index, run, waiting=self._places.needs((role, index)))

    def _create(self, handle: Handle) -> None:
        """Starts a process if there is a place for it. Returns before it is up."""
        role, index = handle.role, handle.index
        place = self._places.options((role, index))
        if place is None:
            return
        cores = self._places.cores((role, index))
        actor = cast(Any, ray.remote(ProcessActor)).options(
            name=f"upcycle-{self._config.name}-{role}" + (f"-{index}" if self._has_many(role) else ""),
            **place,
            max_concurrency=4,
            max_restarts=0,
            max_task_retries=0,
            **({} if self._lean else {"runtime_env": {"env_vars": _environment(cores)}}),
        )
        # As an argument: Ray shows environments in its dashboard and in the command lines of its workers.
        handle.actor = actor.remote(role, index, str(handle.run.resolve()), self.redis_password, cores)
        handle.waiting, handle.since = None, time.time()

    def poll(self, handles: Sequence[Handle], timeout_seconds: float) -> dict[str, str | None]:
        """Starts whoever has a place now, and asks every process how it is; one question at a time is open to each.

        Returns: by name, None for those that answered (see `Handle.status`) or the reason of their death; those
          that said nothing in time are left out.
        """
        self._places.look()
        for handle in handles:
            if handle.actor is None:
                self._create(handle)
        line = self._places.waiting()
        for handle in handles:
            if handle.waiting is not None:
                handle.waiting = line
        asked = [handle for handle in handles if handle.actor is not None]
        for handle in asked:
            if handle.pending is None:
                handle.pending = handle.actor.status.remote()
        if asked:
            ray.wait([handle.pending for handle in asked], num_returns=len(asked), timeout=timeout_seconds)
        answers: dict[str, str | None] = {}
        for handle in asked:
            try:
                handle.status = cast(dict[str, Any], ray.get(handle.pending, timeout=0))
                answers[handle.name] = None
            except GetTimeoutError:
                continue
            except RayActorError as error:
                answers[handle.name] = _first_line(error)
            except RayError as error:  # an error in the constructor or in `status` itself
                answers[handle.name] = _first_line(error.__cause__ or error)
            handle.pending = None
        return answers

    def stop(self, handles: Sequence[Handle], timeout_seconds: float) -> list[str]:
        """Asks processes to end, all at once, waits, and removes them; returns who had to be killed."""
        handles = [handle for handle in handles if handle.actor is not None]
        asked: dict[str, Any] = {handle.name: handle.actor.stop.remote(timeout_seconds) for handle in handles}
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_seconds + 2.0)
        killed: list[str] = []
        for handle in handles:
            try:
                ended = cast(bool, ray.get(asked[handle.name], timeout=0))
                handle.status = cast(dict[str, Any], ray.get(handle.actor.status.remote(), timeout=2.0))
            except (GetTimeoutError, RayError):
                ended = False
            if not ended:
                killed.append(handle.name)
            self.kill(handle)
        return killed

    def kill(self, handle: Handle) -> None:
        """Ends a process at once, if it still lives."""
        if handle.actor is None:
            return
        with suppress(RayError, ValueError):
            ray.kill(handle.actor, no_restart=True)

    def close(self) -> None:
        """Disconnects; a local cluster ends with everything in it. A second call does nothing."""
        ray.shutdown()
        if self._folder is not None:
            end_processes(self._folder)  # Ray forgets those that it has waited for in vain

    def _has_many(self, role: Role) -> bool:
        return role in ("replay", "actor") or (role == "learner" and self._config.learner.ranks > 1)


def _environment(threads: int) -> dict[str, str]:
    """Of a process on a Ray that may have been started anywhere."""
    return {"PYTHONPATH": package_path(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _use_threads(threads: int) -> None:
    """Limits the threads of this process's mathematics, whether or not it was forked with PyTorch in it."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _node_address() -> str:
    """Address of this machine within the cluster."""
    return str(cast(Any, ray.util).get_node_ip_address())


def _local_options(cluster: ClusterConfig) -> dict[str, Any]:
    """Of a cluster on loopback."""
    options: dict[str, Any] = {"include_dashboard": cluster.dashboard, "object_store_memory": _OBJECT_STORE_BYTES}
    return options | ({"_node_ip_address": _LOCAL_ADDRESS} if sys.platform.startswith("linux") else {})


def _check_address(address: str) -> None:
    """Ray itself tries for minutes. Raises: UserError if nobody listens at host:port."""
    if address.startswith("ray://"):
        raise UserError("cluster.address", address, "is a Ray client address", "submit a job, or give GCS_HOST:PORT")
    host, _, port = address.rpartition(":")
    if address in ("auto", "local") or not host:
        return
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            "cluster.address", address, f"cannot be reached ({error})", "start Ray there, or leave it out"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
