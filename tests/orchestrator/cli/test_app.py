import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.app import main
from orchestrator.run import lease
from orchestrator.run.shard_totals import Spread
from orchestrator.run.signals import stop_on_signals
from tests.helpers.paths import ROOT
from tests.helpers.runs import CATCH, catch
from tests.orchestrator.processes.test_evaluator import metadata, weights
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def folder(runs: Path) -> RunFolder:
    folder = RunFolder.create(runs / "catch", catch(), teacher=None, random_score=-0.5, preset="catch", versions={})
    SnapshotFolder(folder.snapshots).publish(4, weights(), metadata(4))
    folder.append_score(
        {
            "phase": "rl",
            "env_frames": 10,
            "learner_steps": 5,
            "policy_version": 4,
            "mean_return": 0.5,
            "normalised": None,
            "episodes": 2,
            "returns": [0.0, 1.0],
            "kind": "evaluation",
        }
    )
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Runs a command that must fail with exit code 2 and one line; returns that line."""
    assert main([str(argument) for argument in arguments]) == 2
    output = capsys.readouterr()
    line = output.err.strip().splitlines()[-1]
    assert line.startswith("upcycle: ")
    assert output.out == ""
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ["preset", "nope", "known presets", "catch.toml"]),
        (["catch", "--set", "learner.batchsize=1"], ["learner.batchsize", "did you mean learner.batch_size"]),
        (["catch", "--set", "env.task=Cach-v0"], ["env.task", "Cach-v0", "Catch-v0"]),
        (["catch", "--set", "env.task=Pendulum-v1"], ["env.task", "discrete"]),
        (["catch", "--set", "cluster.redis_url=redis://127.0.0.1:1/0"], ["cluster.redis_url", "cannot be reached"]),
        (["catch", "--set", "cluster.redis_url=ftp://x"], ["cluster.redis_url", "redis://HOST:PORT"]),
        (["catch", "--set", "cluster.address=127.0.0.1:1"], ["cluster.address", "cannot be reached"]),
        (["catch", "--set", "cluster.address=ray://127.0.0.1:1"], ["cluster.address", "Ray client"]),
        (["catch", "--set", "phases=offline", "--set", "teacher.id=nobody"], ["teacher", "nobody"]),
    ],
)
def test_a_run_that_cannot_start_leaves_nothing(
    arguments: list[str], words: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
):
    line = refused(capsys, "run", *arguments, "--runs", runs)
    assert all(word in line for word in words), line
    assert not runs.exists()


@pytest.mark.slow
def test_an_existing_run_is_overwritten_only_when_told_and_when_idle(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]
):
    assert "exists already" in refused(capsys, "run", CATCH, "--runs", runs)
    with lease.hold(folder):
        assert "is running" in refused(capsys, "run", CATCH, "--runs", runs, "--overwrite")
        assert "is running" in refused(capsys, "resume", "catch", "--runs", runs)
    (runs / "data").mkdir()
    assert "no run folder" in refused(capsys, "run", CATCH, "--runs", runs, "--name", "data", "--overwrite")
    assert folder.manifest["name"] == "catch"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.hidden=65", "network"),
        ("name=other", "name"),
        ("replay.num_shards=1", "replay.num_shards"),
        ("rl.env_framez=1", "rl.env_frames"),
    ],
)
def test_resuming_cannot_change_what_the_checkpoint_depends_on(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
):
    before = (folder.path / "config.toml").read_bytes()
    assert words in refused(capsys, "resume", "catch", "--set", change, "--runs", runs)
    assert (folder.path / "config.toml").read_bytes() == before


def test_a_finished_run_is_resumed_only_with_more_to_do(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]
):
    folder.update_manifest(state="finished")
    assert "has finished" in refused(capsys, "resume", "catch", "--runs", runs)


@pytest.mark.parametrize("verb", ["resume", "stop", "status", "report"])
def test_an_unknown_run_is_named(verb: str, folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]):
    assert "known runs: catch" in refused(capsys, verb, "catsh", "--runs", runs)


def test_the_status_of_a_run_says_whose_score_it_shows_and_what_is_being_played(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]
):
    def shown() -> str:
        assert main(["status", "catch", "--runs", str(runs)]) == 0
        return capsys.readouterr().out

    folder.update_manifest(state="running")
    games = {"ended": 12, "of": 30, "env_frames": 216_000, "mean_return": 8.24}
    folder.write_status("driver", 0, {"phase": "evaluation", "fraction": 0.4, "games": games})
    folder.append_score(folder.scores()[0] | {"kind": "playoff", "env_frames": 0, "learner_steps": 10_000})
    text = shown()
    assert "evaluation 40%, 12 of 30 games (216,000 frames), mean so far 8.2" in text
    assert "play-off: 0.5 in 2 games (policy version 4, 0 frames, 10,000 updates)" in text
    folder.append_score(folder.scores()[-1] | {"kind": "final"})
    folder.update_manifest(state="finished")
    text = shown()
    assert "finished  done 40%" in text
    assert "12 of 30" not in text
    assert "final score: 0.5 in 2 games (policy version 4, 0 frames, 10,000 updates)" in text


def test_status_tells_a_lost_run_from_a_stopped_one(folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]):
    def state() -> str:
        assert main(["status", "catch", "--runs", str(runs), "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["score"]["mean_return"] == 0.5
        return record["state"]

    folder.update_manifest(state="stopped")
    assert state() == "stopped"
    folder.update_manifest(state="running")
    assert state() == "lost"  # its driver was killed
    with lease.hold(folder):
        assert state() == "running"
    folder.write_status("driver", 0, {"phase": "rl", "fraction": 0.5})
    assert state() == "running"  # a driver on another machine
    assert main(["status", "--runs", str(runs)]) == 0
    assert "rl 50%" in capsys.readouterr().out


def test_status_shows_how_alike_the_shards_are(folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]):
    ages = (90.0, 900.0)
    apart = Spread(num_shards=2, transitions=(4480, 10_000), fill=(0.448, 1.0), oldest_seconds=ages).to_json()
    folder.write_status("driver", 0, {"phase": "rl", "fraction": 0.5, "replay": apart})
    assert main(["status", "catch", "--runs", str(runs)]) == 0
    assert "replay: 2 shards hold 4,480 to 10,000 transitions" in capsys.readouterr().out
    assert main(["status", "catch", "--runs", str(runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replay"] == apart


def test_stop_needs_a_running_run(folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]):
    folder.update_manifest(state="stopped")
    assert "is not running (stopped)" in refused(capsys, "stop", "catch", "--runs", runs)
    assert not folder.stop_requested()


def test_evaluate_plays_the_policy_that_a_run_gives_back(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]
):
    def played(*options: str) -> int:
        assert main(["evaluate", "catch", "--episodes", "3", "--runs", str(runs), "--json", *options]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["episodes"] == 3
        return record["policy_version"]

    assert played() == 4  # none has been evaluated best yet
    snapshots = SnapshotFolder(folder.snapshots)
    snapshots.keep_best(snapshots.load(snapshots.publish(5, weights(), metadata(5))))
    snapshots.publish(6, weights(), metadata(6))
    assert played() == 5
    assert played("--policy-version", "6") == 6
    assert "is not kept; choose one of" in refused(capsys, "evaluate", "catch", "--policy-version", "9", "--runs", runs)
    assert "is for runs" in refused(capsys, "evaluate", "pong", "--policy-version", "9", "--runs", runs)
    assert len(folder.scores()) == 1  # it writes nothing
    assert "--episodes" in refused(capsys, "evaluate", "catch", "--episodes", "0", "--runs", runs)


def test_report_can_be_written_at_any_time(folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "catch", "--runs", str(runs)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder.report
    assert folder.report.is_file()


@pytest.mark.slow
def test_doctor_finds_this_machine_fit(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--runs", str(runs), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"python", "redis", "ray", "disk", "torch device"} <= {finding["check"] for finding in findings}
    assert not runs.exists()


def test_a_defect_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("orchestrator.cli.status.show_all", broken)
    assert main(["status"]) == 1
    assert "ZeroDivisionError: oops (a defect" in capsys.readouterr().err


def test_a_run_that_was_stopped_says_so(
    folder: RunFolder, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def stopped(*_: object, **__: object) -> None:
        folder.update_manifest(state="stopped")

    monkeypatch.setattr("orchestrator.run.launch.resume", stopped)
    assert main(["resume", "catch", "--runs", str(runs), "--json"]) == 3
    record = json.loads(capsys.readouterr().out)
    assert (record["state"], record["run_id"]) == ("stopped", folder.manifest["run_id"])
    assert main(["resume", "catch", "--runs", str(runs)]) == 3
    monkeypatch.setattr("orchestrator.run.launch.run", stopped)
    assert main(["run", "catch", "--name", "never-begun", "--runs", str(runs), "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == {"run_id": None, "state": "stopped"}


def test_help_says_what_a_verb_does():
    def shown(*words: str) -> str:
        command = [sys.executable, "-m", "orchestrator.cli", *words, "--help"]
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return " ".join(done.stdout.split())

    text = shown("teacher", "publish")
    assert "--no-experience" in text
    assert "leave out the run's experience log" in text
    assert "share the run's" not in text
    assert "by default the best one so far" in text
    assert "newest policy" not in shown("evaluate")


def test_help_needs_nothing_heavy_and_unknown_verbs_have_code_2():
    command = [sys.executable, "-m", "orchestrator.cli"]
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert all(verb in shown.stdout for verb in ("run", "resume", "stop", "status", "evaluate", "doctor", "teacher"))
    wrong = subprocess.run([*command, "fly"], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert wrong.returncode == 2


def test_the_first_signal_asks_and_the_second_insists():
    stop, before = StopSignal(), signal.getsignal(signal.SIGTERM)
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
