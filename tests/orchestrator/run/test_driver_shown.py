"""What a driver shows of its processes, in panel, status and log, against a cluster that is a script."""

import time
from typing import Any, cast

import pytest
import structlog

from orchestrator.run import driver as driver_module
from orchestrator.run import lease
from orchestrator.run.driver import Driver
from orchestrator.run.progress import format_line
from orchestrator.run.state import describe
from orchestrator.run.timings import Timings
from tests.helpers.scripted_cluster import Screen, ScriptedCluster, drive, learner
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.tracker import Tracker
from upcycle.runs.waits import Wait

pytestmark = pytest.mark.usefixtures("short_rounds")

CPUS = "1.32 CPUs: Ray has 2 CPUs on 1 node, 0 CPUs free"


def test_what_the_learner_has_to_say_is_said_once(folder: RunFolder, tracker: Tracker):
    notices = ["", "at learner step 9 it was not finite", "at learner step 9 it was not finite", ""]

    def answer(name: str, round_: int) -> dict[str, Any]:
        if name != "learner-0":
            return {}
        state = learner("offline", 10, 0) if round_ <= len(notices) else learner("done", 120, 100, "finished")
        return state | {"detail": state["detail"] | {"notice": (*notices, "")[round_ - 1]}}

    _, screen, _, driver = drive(folder, tracker, answer)
    driver.run()
    assert [line for line in screen.said if "finite" in line] == ["learner: at learner step 9 it was not finite"]


def test_a_process_that_waits_for_cpus_is_shown_and_not_booked_as_dying(
    folder: RunFolder, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(driver_module, "_START_SECONDS", -60.0)  # what waits on is given no time at all
    seen = list[dict[str, Any]]()

    def answer(name: str, round_: int) -> Any:
        if round_ == 8 and not seen:
            seen.append(describe(folder))
        if name in ("learner-0", "replay-1") and round_ < 8:
            return CPUS
        return learner("online", 1, 1, "finished" if round_ == 12 else "running") if name == "learner-0" else {}

    cluster, screen, metrics, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    assert [metrics.value("supervisor_restarts_total", target=role) for role in ("learner", "replay")] == [0, 0]
    assert cluster.started.count("learner-0") == 1
    assert screen.shown[0].waiting_for == CPUS
    assert f"waiting for {CPUS}" in format_line(screen.shown[0])
    assert screen.shown[-1].waiting_for is None
    shown = seen[0]["processes"]
    assert seen[0]["waiting_for"] == CPUS
    assert {name: status["state"] for name, status in shown.items()} == {
        "learner-0": "waiting",  # though it has yet to write a status of its own
        "replay-0": "running",
        "replay-1": "waiting",
        "evaluator-0": "running",
    } | {name: "running" for name in ("actor-0", "actor-1") if name in shown}
    assert (shown["learner-0"]["waiting"]["kind"], shown["learner-0"]["waiting"]["detail"]) == ("cpus", CPUS)


def test_a_process_that_has_died_is_shown_as_dead_until_it_is_started_again(folder: RunFolder, tracker: Tracker):
    seen = list[dict[str, Any]]()

    def answer(name: str, round_: int) -> Any:
        again = cluster.started.count("learner-0") == 2
        if name == "replay-0" and not again:
            seen.append(describe(folder)["processes"].get("learner-0", {}))
        if name == "learner-0":
            return learner("online", 1, 1, "finished") if again else RuntimeError("no memory") if round_ > 2 else {}
        return {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    assert (seen[-1]["state"], seen[-1]["error"]) == ("died", "no memory")


def test_who_is_late_is_named_while_a_run_starts(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        starts = {"state": "starting"} if name in ("learner-0", "replay-1") and round_ < 3 else {}
        return learner("online", 1, 1, "finished") if name == "learner-0" and not starts else starts

    _, screen, _, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    assert (screen.shown[0].waiting_for or "").startswith("replay-1, learner-0 to start, ")
    assert screen.shown[-1].waiting_for is None


def test_the_moments_of_every_process_are_noted(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        if name != "learner-0":
            return {"moments": {"up": 1.0, "built": 2.0}}
        return learner("rl", 5, 5, "finished" if round_ == 3 else "running") | {
            "moments": {"up": 1.0, "first_step": 3.0, "last_step": 3.0 + round_}
        }

    timings = Timings(began=0.0)
    cluster, screen, metrics = ScriptedCluster(folder, answer), Screen(), Metrics("driver", "run")
    driver = Driver(
        folder,
        cast(Any, cluster),
        tracker=tracker,
        metrics=metrics,
        view=screen,
        stop=StopSignal(),
        timings=timings,
    )
    driver.run()
    record = timings.to_json()
    assert set(record["processes"]) == set(cluster.started)
    for name, known in record["processes"].items():
        assert {"asked", "first_answer", "up"} <= set(known), name
        assert known["first_answer"] >= known["asked"]
    assert (record["first_step"], record["last_step"]) == (3.0, 6.0)
    assert [step["step"] for step in record["steps"]] == ["end actor, learner, evaluator", "end replay"]


def test_processes_on_plain_kernels_are_named_once_and_in_the_status(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        plain = {"plain_kernels": None if name.startswith("learner") else "no compiler"}
        return plain | (learner("online", 1, 1, "finished" if round_ > 4 else "running") if name == "learner-0" else {})

    _, screen, _, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    said = [line for line in screen.said if "plain kernels" in line]
    assert " ".join(said).count("no compiler") == len(said) <= 2  # actors come a round later
    assert all(" ".join(said).count(name) == 1 for name in ("replay-0", "replay-1", "evaluator-0"))
    processes = folder.statuses()["driver-0"]["processes"]
    assert (processes["replay-0"]["plain_kernels"], processes["learner-0"]["plain_kernels"]) == ("no compiler", None)


def test_a_run_without_progress_says_why_in_panel_status_and_log_and_when_it_goes_on(
    folder: RunFolder, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.run.standstill.PATIENCE_SECONDS", 0.1)
    refused = Wait("shards", time.time() - 60, "connection refused").to_json()
    shown, words = list[Record](), "learner-0, actor-0, actor-1 reach no replay shard since"

    def found() -> list[Record]:
        return [record["standstill"] for record in shown if record["standstill"] is not None]

    def answer(name: str, round_: int) -> Any:
        if name == "learner-0":
            shown.append(describe(folder))
        going_on = any(words in standstill["line"] for standstill in found())
        waiting = None if going_on or not name.startswith(("learner", "actor")) else refused
        if name != "learner-0":
            return {"waiting": waiting}
        ended = going_on and shown[-1]["standstill"] is None
        return learner("online", round_ if going_on else 7, 7, "finished" if ended else "running") | {
            "waiting": waiting
        }

    with structlog.testing.capture_logs() as logs, lease.hold(folder):
        folder.update_manifest(state="running")
        _, screen, _, driver = drive(folder, tracker, answer)
        assert driver.run().finished
    assert words in found()[-1]["line"]
    assert [cause["process"] for cause in found()[-1]["causes"]] == ["learner-0", "actor-0", "actor-1"]
    lines = [progress.standstill["line"] for progress in screen.shown if progress.standstill is not None]
    assert words in lines[-1]
    assert screen.shown[-1].standstill is None
    assert [log["event"] for log in logs if "waiting" in log["event"]][-2:] == ["waiting", "waiting_no_longer"]
