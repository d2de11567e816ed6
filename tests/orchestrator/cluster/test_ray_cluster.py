"""The whole system under Ray: as a job on a cluster, and on a local Ray with processes that are killed.

One cluster for all tests of this module; a local Ray is started by the command itself, as a user's is.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from orchestrator.cli.options import STOPPED
from orchestrator.cluster.placement_groups import gpus_of_rank
from tests.helpers.paths import ROOT
from tests.helpers.runs import CATCH, wait_until
from upcycle.config.run import LearnerConfig
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder

SMALL = ("rl.env_frames=2000", "evaluation.episodes=5", "evaluation.final_episodes=10", "evaluation.period_seconds=5")
GCS_PORT, DASHBOARD_PORT = 6411, 8277
BIN = Path(sys.executable).parent
POLITELY = ("nice", "-n", "5")
"""For runs that train as fast as they can until they are stopped: other tests have the right of way."""


@dataclass(frozen=True)
class Head:
    """A running `ray start --head`."""

    address: str
    dashboard: str

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.dashboard + path, timeout=10) as reply:
            return json.load(reply)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.dashboard + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    ports = ["--port", str(GCS_PORT), "--dashboard-port", str(DASHBOARD_PORT)]
    ports += ["--ray-client-server-port", "10002", "--min-worker-port", "14000", "--max-worker-port", "14400"]
    place = ["--node-ip-address", "127.0.0.2", "--dashboard-host", "127.0.0.1"]
    size = ["--num-cpus", "2", "--object-store-memory", "100000000", "--disable-usage-stats"]
    with tempfile.TemporaryDirectory(prefix="uph-", ignore_cleanup_errors=True) as folder:
        command = [str(BIN / "ray"), "start", "--head", "--block", "--temp-dir", folder, *ports, *place, *size]
        output = Path(folder, "output")
        with (
            output.open("wb") as file,
            subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True) as process,
        ):
            head = Head(f"127.0.0.2:{GCS_PORT}", f"http://127.0.0.1:{DASHBOARD_PORT}")
            try:
                wait_until(lambda: process.poll() is not None or jobs_answer(head))
                assert process.poll() is None, output.read_text()
                yield head
            finally:
                process.send_signal(signal.SIGTERM)  # never `ray stop`: it ends every Ray of this machine
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)


def jobs_answer(head: Head) -> bool:
    try:
        return head.get("/api/jobs/") == []
    except OSError:
        return False


def submitted(head: Head, job: dict[str, Any]) -> bool:
    """Whether the cluster has the job; a head that has just come up may have no agent to take it, or hang up."""
    with suppress(OSError):
        head.post("/api/jobs/", job)
    try:
        return any(known["submission_id"] == job["submission_id"] for known in head.get("/api/jobs/"))
    except OSError:
        return False


def command(*arguments: str | Path, sets: tuple[str, ...] = ()) -> list[str]:
    changes = [word for change in sets for word in ("--set", change)]
    return [sys.executable, "-m", "orchestrator.cli", *map(str, arguments), *changes]


def status(runs: Path) -> dict[str, Any]:
    shown = subprocess.run(
        command("status", "catch", "--runs", runs, "--json"), cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    return cast(dict[str, Any], json.loads(shown.stdout))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_preset_runs_as_a_ray_job_and_its_processes_have_names(head: Head, tmp_path: Path):
    runs = tmp_path / "runs"
    words = ["python", "-m", "orchestrator.cli", "run", str(CATCH), "--runs", str(runs)]
    words += [word for change in SMALL for word in ("--set", change)]
    job = {
        "entrypoint": " ".join(words),
        "submission_id": "catch",
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}},
    }
    wait_until(lambda: submitted(head, job))
    names: set[str] = set()

    def ended() -> bool:
        listed = head.get("/api/v0/actors?detail=0&limit=100")["data"]["result"]["result"]
        names.update(actor["name"] for actor in listed)
        return head.get("/api/jobs/catch")["status"] in ("SUCCEEDED", "FAILED", "STOPPED")

    wait_until(ended, seconds=240)
    logs = head.get("/api/jobs/catch/logs")["logs"]
    assert head.get("/api/jobs/catch")["status"] == "SUCCEEDED", logs
    roles = ("replay-0", "replay-1", "learner", "actor-0", "evaluator")
    assert {f"upcycle-catch-{role}" for role in roles} <= names
    folder = RunFolder(runs / "catch")
    assert folder.endpoints("tracker")[0].startswith("redis://127.0.0.2:"), "other nodes could not reach it"
    assert not [path.name for path in folder.logs.iterdir() if "tracker_unavailable" in path.read_text()]
    summary = json.loads(folder.summary.read_text())
    assert summary["env_frames"] >= 2000
    assert summary["final"]["episodes"] == 10


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_run_survives_kills_stops_cleanly_and_is_resumed(head: Head, tmp_path: Path):
    runs = tmp_path / "runs"
    folder = RunFolder(runs / "catch")
    endless = (*SMALL, "rl.env_frames=1000000", "replay.num_shards=1", "learner.ranks=2")
    begin = [*POLITELY, *command("run", CATCH, "--runs", runs, sets=endless)]
    with (tmp_path / "output").open("wb") as output:
        driver = subprocess.Popen(begin, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: folder.path.exists() and progress(folder) > 500, seconds=300)
        targets = json.loads(folder.metrics_targets.read_text())
        names = ("driver-0", "replay-0", "learner-0", "learner-1", "actor-0", "evaluator-0")
        assert {target["labels"]["process"] for target in targets} == {f"catch/{name}" for name in names}
        for target in targets:
            with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics", timeout=10) as reply:
                assert b"upcycle_process_up" in reply.read()

        processes = status(runs)["processes"]
        killed = {name: int(processes[name]["pid"]) for name in ("actor-0", "replay-0", "learner-1")}
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        killed["learner-0"] = int(processes["learner-0"]["pid"])  # the ranks of a learner are started again together
        wait_until(lambda: folder.statuses()["driver-0"]["restarts"] >= 3)
        reached = progress(folder)
        wait_until(lambda: progress(folder) > reached + 300)
        assert all(int(status(runs)["processes"][name]["pid"]) != pid for name, pid in killed.items())

        subprocess.run(command("stop", "catch", "--runs", runs), cwd=ROOT, check=True, timeout=120)
        assert driver.wait(60) == STOPPED
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(10)
    assert folder.manifest["state"] == "stopped"
    checkpoints = sorted(folder.checkpoints.glob("*.pt"))
    assert checkpoints
    before = status(runs)
    assert not folder.summary.exists()

    frames = before["env_frames"] + 2500  # the actor may be ahead of the learner by the error buffer, 1,000
    again = command(
        "resume", "catch", "--runs", runs, "--json", sets=(f"cluster.address={head.address}", f"rl.env_frames={frames}")
    )
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(again, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["env_frames"] >= frames
    assert summary["learner_steps"] > before["learner_steps"]
    assert folder.manifest["state"] == "finished"
    assert folder.report.is_file()


def progress(folder: RunFolder) -> int:
    return int(folder.statuses().get("learner-0", {}).get("env_frames", 0))


@pytest.mark.parametrize(
    ("device", "ranks", "gpus", "each"),
    [("auto", 1, 0, 0), ("auto", 2, 0, 0), ("auto", 2, 2, 1), ("cuda", 2, 3, 1), ("cpu", 2, 1, 0)],
)
def test_each_rank_has_a_gpu_of_its_own_or_none_has(
    device: Literal["auto", "cpu", "cuda"], ranks: int, gpus: int, each: int
):
    assert gpus_of_rank(LearnerConfig(device=device, ranks=ranks), gpus) == each


@pytest.mark.parametrize(("device", "gpus", "field"), [("auto", 1, "learner.ranks"), ("cuda", 0, "learner.device")])
def test_too_few_gpus_are_refused(device: Literal["auto", "cuda"], gpus: int, field: str):
    with pytest.raises(UserError, match=field):
        gpus_of_rank(LearnerConfig(device=device, ranks=2), gpus)


@pytest.mark.slow
def test_a_killed_driver_leaves_a_run_that_says_so(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.run import lease; "
        "from tests.helpers.runs import new_run, catch; "
        "folder = new_run(Path(sys.argv[1]), catch(), state='running');\n"
        "with lease.hold(folder): print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "catch")], cwd=ROOT, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"up\n"
        assert status(tmp_path)["state"] == "running"
        driver.kill()
        driver.wait(10)
    started = time.monotonic()
    assert status(tmp_path)["state"] == "lost"
    assert time.monotonic() - started < 60
