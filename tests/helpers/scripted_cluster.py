"""A fake cluster for the driver's tests. The test scripts what each process answers."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from orchestrator.processes.context import Role
from orchestrator.run.driver import Driver
from orchestrator.run.progress import Progress
from upcycle.config.io import parse_config
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.tracker import Tracker
from upcycle.runs.waits import Wait


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


def learner(phase: str, steps: int, frames: int, state: str = "running") -> dict[str, Any]:
    counts = {"learner_steps": steps, "phase_learner_steps": steps, "env_frames": frames, "phase_env_frames": frames}
    return {"state": state, "detail": {"phase": phase, "distillation_multiplier": 0.5, **counts}}


def drive(
    folder: RunFolder, tracker: Tracker, answer: Callable[[str, int], Any], stop: StopSignal | None = None
) -> tuple[ScriptedCluster, Screen, Metrics, Driver]:
    cluster, screen, metrics = ScriptedCluster(folder, answer), Screen(), Metrics("driver", "run")
    driver = Driver(
        folder, cast(Any, cluster), tracker=tracker, metrics=metrics, view=screen, stop=stop or StopSignal()
    )
    return cluster, screen, metrics, driver
