"""Every example runs as its first lines say, in seconds, and stays short."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"
MAX_LINES = 60
QUICK = {
    "teacher_values.py": "mean return of 2 openings",
    "shard_and_client.py": "stored: 500",
    "log_as_dataset.py": "2000 transitions of CartPole-v1",
}
RUNS = {
    "own_loss_term.py": "finished: return",
    "own_network.py": "finished: return",
    "run_from_python.py": "now a teacher: catcher-",
}


def run(script: str, tmp_path: Path, *arguments: str) -> str:
    environment = {"UPCYCLE_TEACHERS": str(tmp_path / "teachers"), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "ignore::ResourceWarning", str(EXAMPLES / script), *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_examples_are_short_and_tried():
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == {*QUICK, *RUNS}
    assert {name for name, text in scripts.items() if len(text.splitlines()) > MAX_LINES} == set()


@pytest.mark.parametrize(("script", "words"), QUICK.items())
def test_an_example_runs(script: str, words: str, tmp_path: Path):
    assert words in run(script, tmp_path)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("script", "words"), RUNS.items())
def test_an_example_with_a_run_runs(script: str, words: str, tmp_path: Path):
    assert words in run(script, tmp_path, "1500")
