"""The walls: who imports whom (`pyproject.toml` says who may), how long a module is, what the project holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("upcycle", "replay_service", "teacher_store", "actors", "learner", "orchestrator")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if "_pb2" not in path.name)
MAX_LINES = 300


def test_modules_are_short_and_say_what_they_are_for():
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in MODULES}
    assert [name for name, text in texts.items() if len(text.splitlines()) > MAX_LINES] == []
    assert [name for name, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []


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
