"""The walls: who imports whom, which module owns which foreign library, how long a module may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.paths import ROOT

PACKAGES = ("upcycle", "replay_service", "teacher_store", "actors", "learner", "orchestrator")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if "_pb2" not in path.name)
MAX_LINES = 300

LAYERS = {
    "upcycle": set[str](),
    "replay_service": {"upcycle"},
    "teacher_store": {"upcycle"},
    "actors": {"replay_service", "teacher_store", "upcycle"},
    "learner": {"replay_service", "teacher_store", "upcycle"},
    "orchestrator": {"actors", "learner", "replay_service", "teacher_store", "upcycle"},
}

OWNERS = {
    "ray": ("orchestrator/",),
    "redis": ("upcycle/runs/tracker.py",),
    "grpc": tuple(
        f"replay_service/{name}.py" for name in ("server", "servicer", "calls", "client", "failures", "stubs")
    ),
    "envpool": ("actors/envs.py",),
    "prometheus_client": ("upcycle/runs/metrics.py",),
    "lz4": ("upcycle/experience/native_kernels.py", "upcycle/experience/plain_kernels.py"),
    "tyro": ("orchestrator/cli",),
    "torch": (
        "upcycle/networks/q_network.py",
        "upcycle/networks/network_parts.py",
        "upcycle/networks/torch_io.py",
        "actors/policy.py",
        "actors/actor.py",
        "learner/",
        "teacher_store/teacher.py",
        "orchestrator/",
    ),
    "torch.distributed": ("learner/ranks.py", "learner/rendezvous.py"),
    "pickle": (),
    "pickletools": ("teacher_store/importers/readers/pickle_reader.py",),
    "msgpack": ("teacher_store/importers/",),
    "h5py": ("teacher_store/importers/readers/hdf5_child.py",),
    "PIL": ("teacher_store/importers/readers/hdf5_child.py",),
    "zipfile": ("teacher_store/importers/", "teacher_store/store/bundle.py"),
    "fsspec": ("teacher_store/store/remote_storage.py",),
    "s3fs": (),
    "botocore": ("teacher_store/store/remote_storage.py",),
    "networkx": ("teacher_store/records/lineage.py", "orchestrator/lineage_"),
}
"""Foreign libraries, and the only modules that may import them."""


def imported(path: Path) -> Iterator[str]:
    """Top-level names of all imports, and of those that say more the first two, wherever in the module they stand."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name.split(".")[0]
            yield ".".join(name.split(".")[:2])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_keep_to_the_layers_and_to_the_owners(path: Path):
    package = path.relative_to(ROOT).parts[0]
    names = set(imported(path))
    assert names & set(PACKAGES) <= LAYERS[package] | {package}
    for library, owners in OWNERS.items():
        if library in names:
            assert name_of(path).startswith(owners), f"{library} may be imported in {owners or 'no module'} alone"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_say_what_they_are_for(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_the_top_level_is_what_the_design_says():
    def is_ours(path: Path) -> bool:
        return not path.name.startswith(".") and path.name not in {"runs", "dist", "shared", "__pycache__"}

    allowed = {*PACKAGES, "deploy", "tests", "benchmarks", "docs", "requirements"}
    allowed |= {"README.md", "Makefile", "pyproject.toml", "hatch_build.py", "LICENSE"}
    assert {path.name for path in ROOT.iterdir() if is_ours(path)} <= allowed


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("orchestrator.cli.app", "torch ray grpc redis envpool numpy"),
        ("orchestrator.processes.process", "torch ray envpool"),
        ("replay_service.server.shard", "torch ray envpool"),
        ("orchestrator.run.launch", "ray"),
        ("orchestrator.cli.teacher_commands", "torch ray"),
    ],
)
def test_importing_brings_nothing_heavy_along(module: str, unwanted: str):
    code = f"import sys, {module}; print(sorted({set(unwanted.split())!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_import_linter_agrees():
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout
