"""The documented way to submit a job: one command, in all pages, that says what the script then asks of Ray."""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.helpers.paths import ROOT

SAY = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n'


def documented(page: str) -> set[str]:
    return set(re.findall(r"[^`\n]*deploy/ray_job\.sh[^`\n]*", (ROOT / page).read_text()))


def test_the_pages_show_one_command_and_no_other():
    assert documented("README.md") == documented("docs/operations.md")
    assert len(documented("README.md")) == 1
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert "ray job submit" not in page.read_text(), page.name


def test_it_ships_the_checkout_and_names_the_runs_and_the_time_to_stop(tmp_path: Path):
    (tmp_path / "ray").write_text(SAY)
    (tmp_path / "ray").chmod(0o755)
    (command,) = documented("README.md")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    words = done.stdout.splitlines()
    assert words[:6] == ["job", "submit", "--address", "http://head:8265", "--working-dir", "."]
    variables = json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"]
    assert variables == {"UPCYCLE_RUNS": "/mnt/cluster/runs", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
    submitted = words[words.index("--") + 1 :]
    assert submitted == ["python", "-m", "orchestrator.cli", "run", "pong_cpu", "--name", "mine"]


def test_runs_that_would_end_in_the_job_s_own_folder_are_refused():
    command = ["sh", "deploy/ray_job.sh", "http://head:8265", "pong_cpu"]
    environment = os.environ | {"UPCYCLE_RUNS": "runs"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "UPCYCLE_RUNS = runs: is no absolute path" in done.stderr
