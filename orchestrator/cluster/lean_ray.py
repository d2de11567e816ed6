"""A local Ray without what a run does not use: it is up in a second or two instead of in ten.

Ray starts five Python processes of its own beside its two servers: an autoscaler's monitor, a dashboard's server (even
without a dashboard), a log monitor, and two agents for which the raylet waits. They import for some seconds of CPU time
each. A local run needs none: it scales no cluster, has logs and metrics of its own, and its processes no environment
other than its own. So the first three are not started, and the two agents are stood in for by a process that sleeps.

Nothing of Ray's can be told so from outside. What is replaced here is known of the versions that
`orchestrator.cli.early_start` names; any other Ray is started as it starts itself.
"""

import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import ray

from orchestrator.cluster import agent_stand_in, fork_request
from orchestrator.cluster.fork_server import package_path

_NO_PORT: Final = 1  # nobody but root listens there, and nobody does
_WORKERS_AT_A_TIME: Final = 16  # forks are cheap; Ray's own limit is the number of cores
_AGENT: Final = (sys.executable, str(agent_stand_in.__file__))


@contextmanager
def lean_daemons(fork_socket: Path) -> Generator[None]:
    """While it is open, `ray.init` starts a GCS server and a raylet alone, whose workers come from the fork server.

    Such a Ray cannot give a worker an environment of its own (`runtime_env`): it would wait for its agent in vain.

    Args:
      fork_socket: of `fork_server`.
    """
    node, services = cast(Any, ray)._private.node, cast(Any, ray)._private.services
    variables = {
        "PYTHONPATH": package_path(),
        fork_request.VARIABLE: str(fork_socket),
        "RAY_process_group_cleanup_enabled": "0",  # the group is that of a request, which ends at once
    }
    start_raylet, start_process = node.Node.start_raylet, services.start_ray_process

    def start_raylet_alone(self: Any, *arguments: Any, **options: Any) -> None:
        _write_agents_ports(self)
        self._ray_params.setup_worker_path = fork_request.__file__
        start_raylet(self, *arguments, **options)

    def start_process_lean(command: Sequence[str], process_type: str, **options: Any) -> Any:
        if process_type == "raylet":
            command = lean_command(command)
            options["env_updates"] = {**(options.get("env_updates") or {}), **variables}
        return start_process(command, process_type, **options)

    def start_nothing(*_: Any, **__: Any) -> None:
        pass

    replaced = {name: getattr(node.Node, name) for name in ("start_api_server", "start_monitor", "start_log_monitor")}
    try:
        for name in replaced:
            setattr(node.Node, name, start_nothing)
        node.Node.start_raylet, services.start_ray_process = start_raylet_alone, start_process_lean
        yield
    finally:
        for name, method in replaced.items():
            setattr(node.Node, name, method)
        node.Node.start_raylet, services.start_ray_process = start_raylet, start_process


def lean_command(command: Sequence[str]) -> list[str]:
    """A raylet's command line with stand-ins for its agents, and no worker before one is asked for."""
    agent = subprocess.list2cmdline(_AGENT)  # as Ray itself writes commands; a raylet splits them at spaces
    settings: Mapping[str, str] = {
        "--dashboard_agent_command": agent,
        "--runtime_env_agent_command": agent,
        "--num_prestart_python_workers": "0",
        "--maximum_startup_concurrency": str(_WORKERS_AT_A_TIME),
    }
    given = {word.partition("=")[0] for word in command}
    assert set(settings) <= given, f"this Ray's raylet does not know {sorted(set(settings) - given)}"
    return [f"{name}={settings[name]}" if (name := word.partition("=")[0]) in settings else word for word in command]


def _write_agents_ports(node: Any) -> None:
    """The files in which a raylet waits for its agents' ports."""
    raylet = cast(Any, ray)._raylet
    for name in (
        raylet.METRICS_AGENT_PORT_NAME,
        raylet.METRICS_EXPORT_PORT_NAME,
        raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
        raylet.RUNTIME_ENV_AGENT_PORT_NAME,
    ):
        raylet.persist_port(node._session_dir, node._node_id, name, _NO_PORT)
