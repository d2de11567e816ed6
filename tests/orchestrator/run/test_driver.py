"""The driver against a cluster that is a script: what it starts, starts again, and in which order it ends them."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.processes.shard_set import ShardSet
from orchestrator.run import driver as driver_module
from orchestrator.run.driver import RunFailed
from tests.helpers.scripted_cluster import drive, learner, new_folder
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.tracker import Tracker

pytestmark = pytest.mark.usefixtures("short_rounds")


def test_a_run_that_ends_counts_what_the_actors_handed_over_last(folder: RunFolder, tracker: Tracker):
    spec = ChunkSpec((4,), "float32", 2)
    folder.update_manifest(chunk_spec=spec.to_json())
    for shard, transitions in ((0, 70), (3, 45)):  # shard 3 has left
        with ExperienceLogWriter.open(folder.experience / f"shard-{shard}", spec, folder.config.env) as log:
            log.append(b"a chunk", transitions)

    def answer(name: str, _: int) -> dict[str, Any]:
        return learner("done", 120, 100, "finished") if name == "learner-0" else {}

    _, _, _, driver = drive(folder, tracker, answer)
    assert driver.run().env_frames == 115
    assert folder.statuses()["driver-0"]["env_frames"] == 115


def test_processes_start_when_they_are_needed_and_end_in_order(folder: RunFolder, tracker: Tracker):
    script = [("offline", 10, 0), ("offline", 50, 0), ("offline", 95, 0), ("online", 100, 50)]

    def answer(name: str, round_: int) -> dict[str, Any]:
        if name == "learner-0":
            phase, steps, frames = script[min(round_, len(script)) - 1]
            return learner(phase, steps, frames) if round_ <= len(script) else learner("done", 120, 100, "finished")
        return {"detail": {"num_inserted": 100.0, "samples_per_insert": 8.0}} if name.startswith("replay") else {}

    folder.announce_endpoint("metrics", 0, "127.0.0.1:8")
    cluster, screen, metrics, driver = drive(folder, tracker, answer)
    outcome = driver.run()
    assert cluster.started == ["replay-0", "replay-1", "learner-0", "evaluator-0", "actor-0", "actor-1"]
    assert cluster.stopped == ["actor-0", "actor-1", "learner-0", "evaluator-0", "replay-0", "replay-1"]
    assert (outcome.finished, outcome.env_frames, outcome.learner_steps) == (True, 100, 120)
    assert outcome.samples_per_insert == pytest.approx(8.0)
    assert [progress.phase for progress in screen.shown][-2:] == ["online", "done"]
    assert screen.shown[-2].fraction == 0.5
    assert screen.shown[-2].teacher_return == 10.0
    assert metrics.value("tracker_unavailable_total") >= 4  # counted, and nothing else happened
    status = folder.statuses()
    assert status["driver-0"]["processes"]["learner-0"]["state"] == "finished"
    assert status["learner-0"]["learner_steps"] == 120
    targets = json.loads(folder.metrics_targets.read_text())
    started = [*cluster.started, "driver-0"]
    assert sorted(target["labels"]["process"] for target in targets) == sorted(f"run/{name}" for name in started)


def test_a_dead_process_is_started_again_and_counted(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        if name == "evaluator-0" and round_ == 2:
            return RuntimeError("killed")
        restarted = cluster.started.count("evaluator-0") == 2
        return learner("online", 1, 1, "finished" if restarted else "running") if name == "learner-0" else {}

    cluster, screen, metrics, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    assert metrics.value("supervisor_restarts_total", target="evaluator") == 1
    assert screen.said == ["evaluator-0 died (killed); starting it again"]


def test_a_process_that_keeps_failing_ends_the_run_and_names_its_log(
    folder: RunFolder, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.run.supervisor._FIRST_BACK_OFF_SECONDS", 0.01)

    def answer(name: str, round_: int) -> Any:
        failed: dict[str, Any] = {"state": "failed", "error": "ValueError: no", "detail": {}}
        return failed if name == "learner-0" else {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    with pytest.raises(RunFailed, match=r"learner-0 died 3 times: ValueError: no.*learner-0\.jsonl"):
        driver.run()
    assert cluster.started.count("learner-0") == 3
    assert "replay-1" in cluster.stopped


def test_what_a_user_can_put_right_is_not_tried_again(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        error = ("disk", "/data", "is full", "free some space")
        return {"state": "failed", "user_error": error, "error": "UserError"} if name == "replay-1" else {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    with pytest.raises(UserError, match="disk = '/data': is full; free some space"):
        driver.run()
    assert cluster.started.count("replay-1") == 1


@pytest.mark.parametrize("by", ["signal", "file"])
def test_a_request_to_stop_ends_the_stretch_with_the_learners_last_word(folder: RunFolder, tracker: Tracker, by: str):
    stop = StopSignal()

    def answer(name: str, round_: int) -> Any:
        if round_ == 3:
            stop.set() if by == "signal" else folder.request_stop()
        return learner("online", round_, round_) if name == "learner-0" else {}

    cluster, _, _, driver = drive(folder, tracker, answer, stop)
    outcome = driver.run()
    assert not outcome.finished
    assert outcome.learner_steps == 3
    assert cluster.stopped[-1] == "replay-1"


def test_a_run_is_scaled_while_it_goes_on(folder: RunFolder, tracker: Tracker, monkeypatch: pytest.MonkeyPatch):
    """A third shard joins; then it drains, leaves once the others are full, is ended, and never started again."""
    monkeypatch.setattr(driver_module, "_NOTICE_SECONDS", 0.0)
    answered = list[dict[str, Any]]()

    def answer(name: str, round_: int) -> Any:
        if round_ == 2:
            folder.request_scale(3, 600.0)
        elif round_ == 4:
            folder.request_scale(2, 600.0)
        elif round_ == 9 and not answered:
            answered.append(folder.shards() or {})
        if name.startswith("replay"):
            told = name == "replay-2" and round_ > 6
            detail = {"num_inserted": 10.0, "samples_per_insert": 4.0, "draining": told, "full": round_ > 10}
            held = {"num_stored": 75, "fill": 0.75} if name == "replay-1" else {"num_stored": 100, "fill": 1.0}
            return {"detail": detail | held | {"oldest_seconds": None}}
        return learner("online", round_, 1, "finished" if round_ == 16 else "running") if name == "learner-0" else {}

    cluster, screen, metrics, driver = drive(folder, tracker, answer)
    outcome = driver.run()
    assert outcome.finished
    assert outcome.samples_per_insert == pytest.approx(4.0)
    assert [name for name in cluster.started if name.startswith("replay")] == ["replay-0", "replay-1", "replay-2"]
    assert [set(record["draining"]) for record in answered] == [{"2"}]  # the others were not full yet
    assert cluster.stopped[0] == "replay-2"
    assert cluster.stopped.count("replay-2") == 1
    assert screen.said == [
        "replay has shards 0, 1, 2",
        "replay has shards 0, 1; draining: 2",
        "replay-2 has left",
    ]
    assert set(folder.endpoints("replay")) == {0, 1}
    assert "replay-2" not in folder.statuses()
    assert folder.scale_request() is None
    assert metrics.value("supervisor_restarts_total", target="replay") == 0
    assert metrics.value("replay_spread_ratio") == 0.25
    assert folder.statuses()["driver-0"]["replay"]["transitions"] == [75, 100]


def test_a_run_that_was_scaled_goes_on_with_its_shards(folder: RunFolder, tracker: Tracker):
    shards = ShardSet.first(2).scaled_to(4, leave_by=0.0).scaled_to(3, leave_by=2e9)
    folder.write_shards(shards.without(3).to_json())

    def answer(name: str, round_: int) -> Any:
        return learner("online", 1, 1, "finished") if name == "learner-0" else {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    assert driver.run().finished
    assert [name for name in cluster.started if name.startswith("replay")] == ["replay-0", "replay-1", "replay-2"]
    stretch = ShardSet.read(folder, folder.config)
    assert not any(map(stretch.has_joined, stretch.taking))
    assert stretch.scaled_to(4, leave_by=0.0).taking == (0, 1, 2, 4)  # 3 has a log, though it has left


def test_the_ranks_of_a_learner_are_started_again_together_and_counted_once(tmp_path: Path, tracker: Tracker):
    folder = new_folder(tmp_path, learner={"ranks": 2})

    def answer(name: str, round_: int) -> Any:
        if name == "learner-1" and cluster.started.count(name) == 1 and round_ > 2:
            return RuntimeError("killed")
        if name == "learner-0" and cluster.started.count(name) == 1 and round_ > 2:
            return {"state": "failed", "error": "RankLost: rank 0 of 2 has lost another rank"}
        if name == "learner-1" and cluster.started.count(name) == 2:
            second.append(round_)
            return {"state": "finished", "detail": {"learner_steps": 7}}  # rank 0 has yet to write its last checkpoint
        finished = name == "learner-0" and len(second) > 3
        return learner("online", 5, 5, "finished" if finished else "running") if name == "learner-0" else {}

    second = list[int]()
    cluster, screen, metrics, driver = drive(folder, tracker, answer)
    outcome = driver.run()
    assert outcome.finished
    assert len(second) > 3, "the last rank ended the run"
    assert outcome.learner_steps == 5
    ranks = [name for name in cluster.started if name.startswith("learner")]
    assert ranks == ["learner-0", "learner-1"] * 2
    assert cluster.killed == ["learner-0", "learner-1"]
    assert [name for name in cluster.stopped if name.startswith("learner")] == ["learner-0", "learner-1"]
    assert metrics.value("supervisor_restarts_total", target="learner") == 1
    assert screen.said == [
        "learner (2 ranks) died (learner-0: RankLost: rank 0 of 2 has lost another rank; learner-1: killed); "
        "starting it again"
    ]
    targets = json.loads(folder.metrics_targets.read_text())
    assert {"run/learner-0", "run/learner-1"} <= {target["labels"]["process"] for target in targets}
    assert {"learner-0", "learner-1"} <= set(folder.statuses())


def test_ranks_that_keep_dying_end_the_run_and_name_all_their_logs(
    tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.run.supervisor._FIRST_BACK_OFF_SECONDS", 0.01)
    folder = new_folder(tmp_path, learner={"ranks": 2})

    def answer(name: str, round_: int) -> Any:
        dying = f"learner-{cluster.started.count('learner-1') % 2}"  # by turns: each alone would be below the limit
        return RuntimeError("killed") if name == dying else {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    with pytest.raises(RunFailed, match=r"learner \(2 ranks\) died 3 times: .*learner-0\.jsonl, .*learner-1\.jsonl"):
        driver.run()
    assert cluster.started.count("learner-1") == 3
