"""Whole runs in the test's own process: the loops of a run as threads, on real gRPC, EnvPool and files.

No Ray and no Redis, so a run of Catch takes seconds; nobody restarts anything, so the first error ends it.
"""

import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.processes.context import Context, Role
from orchestrator.processes.process import BUILDERS, Loop
from orchestrator.run.finish import final_evaluation
from orchestrator.run.preparation import prepare_run
from orchestrator.run.progress import SilentView
from orchestrator.run.run_checks import check_run, with_teacher_protocol
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import ReplayTimeout, SampleRequest
from teacher_store.store.store import TeacherStore
from upcycle.config.io import load_config
from upcycle.config.run import RunConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import StopSignal

_HOST = "127.0.0.1"
_RUN_SECONDS, _JOIN_SECONDS = 240.0, 100.0


class InProcess:
    """One loop of a run in a thread."""

    def __init__(self, role: Role, index: int, folder: RunFolder, failed: threading.Event) -> None:
        self.name, self.stop, self.metrics = f"{role}-{index}", StopSignal(), Metrics(role, folder.config.name, index)
        self.error: Exception | None = None
        self._role: Role = role
        self._folder, self._index, self._failed = folder, index, failed
        self._loop: Loop | None = None
        self._thread = threading.Thread(target=self._run, name=self.name)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Of the loop; empty before it is built."""
        return {} if self._loop is None else self._loop.status()

    def wait(self, deadline: float) -> bool:
        """Until the loop ends by itself, some loop of the run fails, or it is too late; says whether it has ended."""
        while self._thread.is_alive() and not self._failed.is_set() and time.monotonic() < deadline:
            self._thread.join(0.05)
        return not self._thread.is_alive()

    def end(self) -> None:
        """Asks the loop to end, and joins it."""
        self.stop.set()
        self._thread.join(_JOIN_SECONDS)
        assert not self.is_alive(), f"{self.name} does not end"

    def is_alive(self) -> bool:
        """Whether the loop's thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            with ExitStack() as resources:
                self._loop = BUILDERS[self._role](self._context(resources))
                self._loop.run()
        except Exception as error:  # the thread's outermost frame: the test raises it
            self.error = error
            self._failed.set()

    def _context(self, resources: ExitStack) -> Context:
        return Context(
            folder=self._folder,
            config=self._folder.config,
            manifest=self._folder.manifest,
            spec=ChunkSpec.from_json(self._folder.manifest["chunk_spec"]),
            index=self._index,
            host=_HOST,
            metrics=self.metrics,
            stop=self.stop,
            tracker=None,
            resources=resources,
        )


class InProcessRun:
    """A run that has been played to its end.

    Attributes:
      final: the score of the final evaluation.
      metrics: of each process, by its name.
      status: the last answer of each loop, by its name.
    """

    def __init__(self, folder: RunFolder, processes: list[InProcess], final: Record) -> None:
        self.folder, self.final = folder, final
        self.metrics = {process.name: process.metrics for process in processes}
        self.status = {process.name: process.status() for process in processes}

    @property
    def mean_return(self) -> float:
        """Of the final evaluation."""
        return float(self.final["mean_return"])


def run_in_process(config: RunConfig, path: Path, store: TeacherStore) -> InProcessRun:
    """Plans a run, plays it in `path` until its learner has done all phases, and evaluates it.

    Raises: what the plan refuses; the first error of a loop; AssertionError if the learner is not done in time.
    """
    config = with_teacher_protocol(config, store)
    plan = prepare_run(check_run(config, store), store, stop=StopSignal(), view=SilentView())
    folder = RunFolder.create(path, config, **(plan.to_manifest() | {"preset": config.name, "versions": {}}))
    return _play(folder)


def resume_in_process(path: Path, store: TeacherStore, *overrides: str) -> InProcessRun:
    """Resumes a stopped run as `upcycle resume` does, and plays it as `run_in_process` does."""
    folder = RunFolder.open(path)
    config = load_config(path / "config.toml", overrides, stored=True)
    plan = prepare_run(check_run(config, store, begins=False), store, stop=StopSignal(), view=SilentView())
    folder.replace_config(config)
    known = plan.to_manifest()
    folder.update_manifest(teacher=known["teacher"], teachers=known["teachers"])
    folder.forget_processes()
    return _play(folder)


def _play(folder: RunFolder) -> InProcessRun:
    config, failed, deadline = folder.config, threading.Event(), time.monotonic() + _RUN_SECONDS
    processes: list[InProcess] = []

    def start(role: Role, index: int = 0) -> InProcess:
        processes.append(InProcess(role, index, folder, failed))
        return processes[-1]

    try:
        for index in range(config.replay.num_shards):
            start("replay", index)
        learner = start("learner")
        for index in range(config.actors.num_actors):
            start("actor", index)
        start("evaluator")
        ended = learner.wait(deadline)
        status = {process.name: process.status() for process in processes}
    finally:
        _end_actors(folder, [process for process in processes if process.name.startswith("actor")])
        for process in reversed(processes):  # whoever uses the shards before the shards
            process.end()
    for process in processes:
        if process.error is not None:
            raise process.error
    assert ended, f"not done after {_RUN_SECONDS} seconds: {status}"
    final = final_evaluation(folder, SilentView(), StopSignal())
    assert final is not None
    return InProcessRun(folder, processes, final)


def _end_actors(folder: RunFolder, actors: list[InProcess]) -> None:
    """Asks the actors to end, drawing in the learner's place: the limiter holds back their last chunks."""
    for actor in actors:
        actor.stop.set()
    spec, deadline = ChunkSpec.from_json(folder.manifest["chunk_spec"]), time.monotonic() + _JOIN_SECONDS
    replay = ShardedReplay(lambda: folder.endpoints("replay"), spec, rng=np.random.default_rng(0))
    try:
        while any(actor.is_alive() for actor in actors) and time.monotonic() < deadline:
            with suppress(ReplayTimeout):
                replay.sample(
                    SampleRequest(
                        tables="online",
                        batch_size=64,
                        view=View(n_step=1, stack=1),
                        importance_sampling_exponent=0.0,
                        timeout_seconds=0.1,
                    )
                )[0]
    finally:
        replay.close()
