"""The driver against a cluster that is a script: what it starts, starts again, and in which order it ends them."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from orchestrator import driver as driver_module
from orchestrator import lease, rounds
from orchestrator.context import Role
from orchestrator.driver import Driver, RunFailed
from orchestrator.progress import Progress, format_line
from orchestrator.shard_set import ShardSet
from orchestrator.status import describe
from orchestrator.timings import Timings
from upcycle.chunks import ChunkSpec
from upcycle.config_io import parse_config
from upcycle.errors import UserError
from upcycle.experience_log import ExperienceLogWriter
from upcycle.metrics import Metrics
from upcycle.run_folder import Record, RunFolder
from upcycle.runtime import StopSignal
from upcycle.tracker import Tracker
from upcycle.waits import Wait

CPUS = "1.32 CPUs: Ray has 2 CPUs on 1 node, 0 CPUs free"


class ScriptedHandle:
    def __init__(self, role: Role, index: int) -> None:
        self.role, self.index = role, index
        self.name = f"{role}-{index}"
        self.status: dict[str, Any] = {}
        self.waiting: str | None = None
        self.died: str | None = None
        self.since = time.time()

    @property
    def state(self) -> str:
        known = "waiting" if self.waiting is not None else str(self.status.get("state", "starting"))
        return known if self.died is None else "died"

    @property
    def wait(self) -> Wait | None:
        if self.waiting is not None:
            return Wait("cpus", self.since, self.waiting)
        return Wait.from_json(self.status.get("waiting")) if self.status else Wait("start", self.since)

    @property
    def detail(self) -> dict[str, Any]:
        return self.status.get("detail", {})


class ScriptedCluster:
    """Every process answers what `answer` says: a detail, a text it waits for, or an exception that is its death."""

    def __init__(self, folder: RunFolder, answer: Callable[[str, int], Any]) -> None:
        self._folder, self._answer = folder, answer
        self.round = 0
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.killed: list[str] = []

    def start(self, role: Role, index: int, run: Path) -> ScriptedHandle:
        assert run == self._folder.path
        if role == "replay":
            self._folder.announce_endpoint("replay", index, "127.0.0.1:1")
        elif (role, index) == ("learner", 0):
            assert not self._folder.endpoints("learner"), "other ranks would look for it where it was before"
            self._folder.announce_endpoint("learner", 0, "127.0.0.1:1")
        self.started.append(f"{role}-{index}")
        return ScriptedHandle(role, index)

    def poll(self, handles: Sequence[ScriptedHandle], timeout_seconds: float) -> dict[str, str | None]:
        self.round += 1
        answers: dict[str, str | None] = {}
        for handle in handles:
            answer = self._answer(handle.name, self.round)
            handle.waiting = answer if isinstance(answer, str) else None
            if isinstance(answer, str):
                continue
            if isinstance(answer, Exception):
                answers[handle.name] = str(answer)
                continue
            state = {"state": "running", "error": None, "user_error": None, "pid": 1, "metrics": "127.0.0.1:9"}
            handle.status = state | {"detail": {}} | answer
            answers[handle.name] = None
        return answers

    def stop(self, handles: Sequence[ScriptedHandle], timeout_seconds: float) -> list[str]:
        self.stopped += [handle.name for handle in handles]
        return []

    def kill(self, handle: ScriptedHandle) -> None:
        self.killed.append(handle.name)


class Screen:
    def __init__(self) -> None:
        self.shown: list[Progress] = []
        self.said: list[str] = []

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)

    def say(self, line: str) -> None:
        self.said.append(line)

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_QUICK_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_folder(tmp_path)


def new_folder(tmp_path: Path, **changes: Any) -> RunFolder:
    config = parse_config(
        {
            "name": "run",
            "teacher": {"id": "t"},
            "offline": {"learner_steps": 100},
            "online": {"env_frames": 100},
            "replay": {"num_shards": 2},
            "actors": {"num_actors": 2},
            "cluster": {"max_restarts": 2},
            **changes,
        }
    )
    teacher = {"id": "t-1", "name": "t", "score": 10.0, "store": "/nowhere", "log": None}
    return RunFolder.create(tmp_path / "run", config, teacher=teacher, random_score=-10.0)


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    tracker = Tracker("redis://127.0.0.1:1/0", "run")  # nobody there: an outage from the first second on
    yield tracker
    tracker.close()


def learner(phase: str, steps: int, frames: int, state: str = "running") -> dict[str, Any]:
    counts = {"learner_steps": steps, "phase_learner_steps": steps, "env_frames": frames, "phase_env_frames": frames}
    return {"state": state, "detail": {"phase": phase, "distillation_multiplier": 0.5, **counts}}


def drive(
    folder: RunFolder, tracker: Tracker, answer: Callable[[str, int], Any], stop: StopSignal | None = None
) -> tuple[ScriptedCluster, Screen, Metrics, Driver]:
    cluster, screen, metrics = ScriptedCluster(folder, answer), Screen(), Metrics("driver", "run")
    return cluster, screen, metrics, Driver(folder, cast(Any, cluster), tracker, metrics, screen, stop or StopSignal())


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


def test_a_process_that_keeps_failing_ends_the_run_and_names_its_log(
    folder: RunFolder, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("orchestrator.supervisor._FIRST_BACK_OFF_SECONDS", 0.01)

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


def test_the_moments_of_every_process_are_noted(folder: RunFolder, tracker: Tracker):
    def answer(name: str, round_: int) -> Any:
        if name != "learner-0":
            return {"moments": {"up": 1.0, "built": 2.0}}
        return learner("rl", 5, 5, "finished" if round_ == 3 else "running") | {
            "moments": {"up": 1.0, "first_step": 3.0, "last_step": 3.0 + round_}
        }

    timings = Timings(began=0.0)
    cluster, screen, metrics = ScriptedCluster(folder, answer), Screen(), Metrics("driver", "run")
    Driver(folder, cast(Any, cluster), tracker, metrics, screen, StopSignal(), timings).run()
    record = timings.to_json()
    assert set(record["processes"]) == set(cluster.started)
    for name, known in record["processes"].items():
        assert {"asked", "first_answer", "up"} <= set(known), name
        assert known["first_answer"] >= known["asked"]
    assert (record["first_step"], record["last_step"]) == (3.0, 6.0)
    assert [step["step"] for step in record["steps"]] == ["end actor, learner, evaluator", "end replay"]


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
    monkeypatch.setattr("orchestrator.supervisor._FIRST_BACK_OFF_SECONDS", 0.01)
    folder = new_folder(tmp_path, learner={"ranks": 2})

    def answer(name: str, round_: int) -> Any:
        dying = f"learner-{cluster.started.count('learner-1') % 2}"  # by turns: each alone would be below the limit
        return RuntimeError("killed") if name == dying else {}

    cluster, _, _, driver = drive(folder, tracker, answer)
    with pytest.raises(RunFailed, match=r"learner \(2 ranks\) died 3 times: .*learner-0\.jsonl, .*learner-1\.jsonl"):
        driver.run()
    assert cluster.started.count("learner-1") == 3


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
    monkeypatch.setattr("orchestrator.standstill.PATIENCE_SECONDS", 0.1)
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
