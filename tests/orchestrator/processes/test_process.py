"""The processes of a run, each real, in one test process instead of under Ray."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from orchestrator.cluster.redis_server import RedisServer
from orchestrator.processes.context import Role
from orchestrator.processes.process import Process
from orchestrator.run.driver import Outcome
from orchestrator.run.finish import final_evaluation, write_results
from orchestrator.run.progress import SilentView
from orchestrator.teachers.publishing import publish_from_run
from replay_service.client.sharded_replay import ShardedReplay
from teacher_store.store.bundle import export_bundle
from teacher_store.store.store import TeacherStore
from tests.helpers.runs import catch, new_run, wait_until
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, close_logging
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.runs.tracker import Tracker

pytestmark = pytest.mark.slow


class Stage:
    """Starts processes and ends them all."""

    def __init__(self, folder: RunFolder, password: SecretStr | None = None) -> None:
        self._folder = folder
        self.password = password
        self._processes: list[Process] = []

    def start(self, role: Role, index: int = 0) -> Process:
        process = Process(role, index, self._folder.path, "127.0.0.1", self.password)
        self._processes.append(process)
        process.start()
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            assert process.stop(20.0), process.status()
        close_logging()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> RunFolder:
    changes = ["replay.num_shards=1", "rl.env_frames=1500", "evaluation.period_seconds=1"]
    if "redis" in request.fixturenames:
        server: RedisServer = request.getfixturevalue("redis")
        changes.append(f"cluster.redis_url={server.url}")
    return new_run(tmp_path / "run", catch(*changes))


@pytest.fixture
def stage(folder: RunFolder) -> Iterator[Stage]:
    stage = Stage(folder)
    yield stage
    stage.close()


def test_a_run_from_its_first_frame_to_its_report(folder: RunFolder, stage: Stage, redis: RedisServer, tmp_path: Path):
    folder.announce_endpoint("tracker", 0, redis.url)
    stage.password = redis.password
    replay = stage.start("replay")
    wait_until(lambda: folder.endpoints("replay"))
    learner, actor, evaluator = stage.start("learner"), stage.start("actor"), stage.start("evaluator")
    wait_until(lambda: learner.status()["state"] in ("finished", "failed"))
    wait_until(lambda: folder.scores())
    assert learner.status()["error"] is None
    assert actor.status()["state"] == evaluator.status()["state"] == "running"
    with urllib.request.urlopen(f"http://{replay.status()['metrics']}/metrics", timeout=5) as reply:
        assert 'upcycle_process_up{index="0",role="replay",run="run"} 1.0' in reply.read().decode()

    detail: dict[str, Any] = learner.status()["detail"]
    assert detail["phase"] == "done"
    assert detail["env_frames"] >= 1500
    assert detail["learner_steps"] > 100
    inserted = replay.status()["detail"]["num_inserted"]
    assert inserted >= 1500
    assert replay.status()["detail"]["num_sampled"] >= detail["learner_steps"] * folder.config.learner.batch_size
    assert actor.stop(20.0)
    assert actor.status()["state"] == "finished"
    wait_until(lambda: replay.status()["detail"]["num_inserted"] == logged(folder))

    outcome = Outcome(True, detail["env_frames"], detail["learner_steps"], 16.0)
    record = final_evaluation(folder, SilentView(), StopSignal())
    assert record is not None
    assert (record["kind"], record["episodes"], len(record["returns"])) == ("final", 8, 8)
    summary = write_results(folder, outcome)
    assert summary == json.loads(folder.summary.read_text())
    assert summary["final"]["mean_return"] == record["mean_return"]
    assert "<svg" in folder.report.read_text()

    tracker = Tracker(redis.url, folder.config.name, password=redis.password)
    assert len(tracker.scores()) == len([score for score in folder.scores() if score["kind"] == "evaluation"])
    tracker.close()
    close_logging()
    store = TeacherStore(tmp_path / "store", bundled=None)
    teacher = publish_from_run(folder.path, store, name="kept")
    assert teacher.provenance.config is not None
    assert redis.url in teacher.provenance.config
    export_bundle(store, teacher.id, tmp_path / "kept.upcycle")
    password = redis.password.get_secret_value().encode()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.toml", "manifest.json", "tracker-0.json", "learner-0.jsonl", "kept.upcycle"} <= {
        path.name for path in left
    }
    assert [path for path in left if password in path.read_bytes()] == []


def logged(folder: RunFolder) -> int:
    return ExperienceLogReader.open(folder.experience).num_transitions


def test_the_counter_equals_the_log_over_a_stop_and_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = new_run(tmp_path / "run", catch("replay.num_shards=1", "rl.env_frames=1000000", "learner.batch_size=16"))

    def stretch(enough: int, *, learner_late: bool) -> dict[str, Any]:
        """Starts everything, stops it in the driver's order, and says what the learner knew at its end."""
        stage = Stage(folder)
        try:
            before = folder.endpoints("replay")
            stage.start("replay")
            wait_until(lambda: folder.endpoints("replay") != before)
            roles: tuple[Role, ...] = ("actor", "learner") if learner_late else ("learner", "actor")
            actor_and_learner = dict[str, Process]()
            for role in roles:
                actor_and_learner[role] = stage.start(role)
                if role == "actor":
                    wait_until(lambda: logged(folder) >= enough)
            actor, learner = actor_and_learner["actor"], actor_and_learner["learner"]
            wait_until(lambda: learner.status()["state"] == "running")
            assert actor.stop(20.0)
            assert learner.stop(20.0)
            assert learner.status()["error"] is None
            return learner.status()["detail"]
        finally:
            stage.close()
            folder.forget_processes()

    monkeypatch.setattr("learner.learner._HOUSEKEEPING_SECONDS", 3.0)  # so that the tails come after its last look
    first = stretch(300, learner_late=False)
    before = logged(folder)
    assert first["env_frames"] == before
    # Again, from the old weights, more than before, and all of it before the learner looks.
    second = stretch(2 * before + 100, learner_late=True)
    assert second["env_frames"] == logged(folder) > 2 * before


def test_a_shard_comes_back_with_what_it_had_acknowledged(folder: RunFolder, stage: Stage):
    first = stage.start("replay")
    wait_until(lambda: folder.endpoints("replay"))
    learner, actor = stage.start("learner"), stage.start("actor")
    wait_until(lambda: first.status()["detail"].get("num_inserted", 0) > 800)
    assert actor.stop(20.0)
    assert learner.stop(20.0)
    assert first.stop(20.0)

    before = folder.endpoints("replay")
    second = stage.start("replay")
    wait_until(lambda: folder.endpoints("replay") != before)
    assert second.status()["detail"]["size"] == logged(folder) > 800
    spec = ChunkSpec.from_json(folder.manifest["chunk_spec"])
    client = ShardedReplay(
        lambda: folder.endpoints("replay"), spec, rng=np.random.default_rng(0), metrics=Metrics("test", "run")
    )
    try:
        assert client.stats("online").num_transitions == logged(folder)
    finally:
        client.close()


def test_a_learner_goes_on_from_its_checkpoint(tmp_path: Path):
    # More frames than the actor, who plays on while there is no learner, could use up.
    folder = new_run(tmp_path / "run", catch("replay.num_shards=1", "rl.env_frames=10000000"))
    stage = Stage(folder)
    try:
        stage.start("replay")
        wait_until(lambda: folder.endpoints("replay"))
        stage.start("actor")
        first = stage.start("learner")
        wait_until(lambda: first.status()["detail"].get("learner_steps", 0) > 50)
        assert first.stop(20.0)
        reached = first.status()["detail"]
        assert reached["phase"] == "rl"
        second = stage.start("learner")
        wait_until(lambda: second.status()["detail"].get("learner_steps", 0) > reached["learner_steps"])
        assert second.stop(20.0)
        assert second.status()["error"] is None
        newest = SnapshotFolder(folder.snapshots).latest()
        assert newest is not None
        assert newest.version > reached["policy_version"]
    finally:
        stage.close()


def test_an_error_is_reported_and_logged_not_raised(folder: RunFolder, stage: Stage):
    (folder.path / "config.toml").write_text("name = 3\n")
    process = stage.start("evaluator")
    wait_until(lambda: process.status()["state"] == "failed")
    assert process.status()["user_error"][0] == "name"
    lines = (folder.logs / "evaluator-0.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "process_failed"
