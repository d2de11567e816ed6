"""`upcycle doctor`: is everything here that a run needs? Each check says what it found and, if need be, what to do."""

import importlib.metadata
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from orchestrator.cli.printing import literal, print_json, print_table
from orchestrator.cluster.local_ray import socket_folder, usable_places
from orchestrator.cluster.redis_server import RedisServer
from teacher_store.store.store import TeacherStore
from upcycle.errors import UpcycleError, UserError
from upcycle.experience import kernels
from upcycle.runs.tracker import Tracker

_PACKAGES: Final = ("torch", "envpool", "ray", "grpcio", "protobuf", "redis", "numpy")
_MIN_CORES: Final = 2
_MIN_MEMORY_BYTES: Final = 4 << 30
_MIN_DISK_BYTES: Final = 4 << 30
_MIN_SHARED_BYTES: Final = 128 << 20
_MIN_FILES: Final = 1024
_MEASURED: Final = {"phases": ["rl"], "learner": {"threads": 0, "memory_format": "auto", "precision": "auto"}}

Level = Literal["ok", "warning", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
      level: "warning" if a run works but not well, "missing" if it cannot work.
      remedy: what to do; empty when all is well.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def examine(runs: Path) -> list[Finding]:
    """Runs all checks. A check that fails in an unforeseen way is a finding as well."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("cores", _cores),
        ("memory", _memory),
        ("kernels", _kernels),
        ("torch device", _device),
        ("learner step", _tuning),
        ("environments", _environments),
        ("ray", _ray),
        ("sockets", check_sockets),
        ("redis", _redis),
        ("shared memory", _shared_memory),
        ("disk", lambda: _disk(runs)),
        ("open files", _files),
        ("teacher store", _teachers),
    )
    return [_attempt(name, check) for name, check in checks]


def report(runs: Path, *, as_json: bool) -> int:
    """Prints the findings; returns 2 if something is missing, else 0."""
    findings = examine(runs)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours: dict[Level, str] = {"ok": "green", "warning": "yellow", "missing": "red"}
        rows = [
            (found.check, literal(found.level, colours[found.level]), found.found, found.remedy) for found in findings
        ]
        print_table(("check", "", "found", "what to do"), rows)
    return 2 if any(finding.level == "missing" for finding in findings) else 0


def _attempt(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (UpcycleError, OSError, ImportError, RuntimeError) as error:
        return Finding(name, "missing", f"{type(error).__name__}: {error}", "run `make setup` again")


def _judge(check: str, value: float, least: float, found: str, remedy: str) -> Finding:
    return Finding(check, "ok", found) if value >= least else Finding(check, "warning", found, remedy)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    right = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("python", "ok" if right else "missing", found, "" if right else "use Python 3.11 or 3.12")


def _packages() -> Finding:
    found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return Finding("packages", "ok", found)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _judge("cores", cores, _MIN_CORES, str(cores), "a run shares one core; expect it to be slow")


def _memory() -> Finding:
    available = psutil.virtual_memory().available
    return _judge("memory", available, _MIN_MEMORY_BYTES, _gigabytes(available), "close something large")


def _kernels() -> Finding:
    if kernels.native:
        return Finding("kernels", "ok", "native: frames are copied and decoded in C")
    return Finding("kernels", "warning", "plain: replay is several times slower", kernels.why_plain)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("torch device", "ok", f"cuda: {torch.cuda.get_device_name(0)}")
    return Finding("torch device", "ok", "cpu")


def _tuning() -> Finding:
    """What a learner with threads, format and precision left open would choose, and what the other ways take."""
    import torch

    from actors.envs import chunk_spec
    from learner.measured_tuning import measure
    from learner.tuning import candidates
    from upcycle.config.run import RunConfig

    config = RunConfig.model_validate(_MEASURED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = chunk_spec(config.env, config.replay.chunk_steps, config.replay.max_n_step)
    ways = candidates(config.learner, device, cores=os.cpu_count() or 1)
    seconds = measure(config, spec, device, ways, batch_size=config.learner.batch_size)
    best, *others = sorted(ways, key=lambda way: seconds[way])
    rest = "; ".join(f"{way.describe()} {1000 * seconds[way]:.0f} ms" for way in others)
    found = f"nature, 84x84, batch 32: {best.describe()} is fastest, {1000 * seconds[best]:.0f} ms a step ({rest})"
    return Finding("learner step", "ok", found)


def _environments() -> Finding:
    from actors.envs import env_spec
    from upcycle.config.run import EnvConfig

    spec = env_spec(EnvConfig(task="Pong-v5"))
    return Finding("environments", "ok", f"Pong-v5 with {spec.num_actions} actions")


def _ray() -> Finding:
    import ray

    address = os.environ.get("RAY_ADDRESS")
    return Finding(
        "ray", "ok", f"{ray.__version__}, {f'would join {address}' if address else 'would start a local one'}"
    )


def check_sockets() -> Finding:
    """Whether a local Ray has a place for its Unix sockets, and which."""
    try:
        with socket_folder() as folder:
            place, first = folder.parent, usable_places()[0]
    except UserError as error:
        return Finding("sockets", "missing", error.problem, error.remedy)
    if place == first:
        return Finding("sockets", "ok", f"a local Ray's fit below {place}")
    return Finding("sockets", "ok", f"a local Ray's go to {place}: below {first} they do not fit or cannot be made")


def _redis() -> Finding:
    with tempfile.TemporaryDirectory(prefix="up-") as directory, RedisServer(Path(directory)) as server:
        tracker = Tracker(server.url, "doctor", password=server.password)
        try:
            tracker.ping()
        finally:
            tracker.close()
        return Finding("redis", "ok", "the embedded server starts and answers")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding("shared memory", "ok", "no /dev/shm on this system")
    free = shutil.disk_usage(path).free
    remedy = "give the container more, for example --shm-size=1g"
    return _judge("shared memory", free, _MIN_SHARED_BYTES, _gigabytes(free), remedy)


def _disk(runs: Path) -> Finding:
    place = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        return Finding("disk", "missing", f"{place} cannot be written", "choose another folder with --runs")
    free = shutil.disk_usage(place).free
    return _judge("disk", free, _MIN_DISK_BYTES, f"{_gigabytes(free)} free at {place}", "free some space")


def _files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = float("inf") if soft == resource.RLIM_INFINITY else soft
    return _judge("open files", many, _MIN_FILES, str(soft), f"ulimit -n {_MIN_FILES}")


def _teachers() -> Finding:
    store = TeacherStore.default()
    names = [record.id for record in store.list()]
    remedy = "train one: upcycle run pong_teacher"
    return _judge("teacher store", len(names), 1, ", ".join(names) or f"empty ({store.location})", remedy)


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
