"""What has to hold before a change lands: format, lint, types, spelling, docs. Each is a command of its own as well."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

BIN = Path(sys.executable).parent
WIRE = ROOT / "replay_service" / "wire"


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "format", "--check", "--no-cache"),
        ("ruff", "check", "--no-cache"),
        ("lint-imports", "--no-cache"),
        ("codespell",),
        pytest.param(("basedpyright",), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
    ids=" ".join,
)
def test_it_finds_nothing(command: tuple[str, ...]):
    run = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_docs_site_builds_without_a_warning(tmp_path: Path):
    command = [BIN / "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "glossary" / "index.html").is_file()


def test_the_generated_messages_are_those_of_the_proto():
    recorded, _, name = (WIRE / "replay.proto.sha256").read_text().partition("  ")
    assert name.strip() == "replay.proto"
    assert recorded == sha256((WIRE / "replay.proto").read_bytes()).hexdigest(), "run make proto"
