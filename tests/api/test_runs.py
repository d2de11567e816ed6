"""Runs of Catch: one in this process, to look at, and some that `upcycle.run` starts as anyone would."""

from pathlib import Path

import numpy as np
import pytest

import upcycle
from teacher_store.store.store import TeacherStore
from tests.helpers.in_process import run_in_process
from tests.helpers.runs import wait_until
from upcycle.experience.chunks import Array

CHANGES = {"rl.env_frames": 6_000, "evaluation.episodes": 5, "evaluation.final_episodes": 8}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> upcycle.Run:
    """A run that has been played to its end."""
    runs: Path = tmp_path_factory.mktemp("runs")
    config = upcycle.load_preset("catch", CHANGES)
    folder = run_in_process(config, runs / "catch", TeacherStore(runs / "teachers", bundled=None)).folder
    folder.update_manifest(state="finished")
    return upcycle.open_run("catch", runs=runs)


def test_a_preset_is_loaded_and_changed():
    assert "catch" in upcycle.list_presets()
    changes = {"learner.batch_size": 32, "cql.phases": ["rl"], "env.fire_reset": False, "rl.stop_at_return": None}
    config = upcycle.load_preset("catch", changes | {"network.width": 1e-3})
    assert (config.learner.batch_size, config.cql.phases, config.env.fire_reset) == (32, ("rl",), False)
    assert (config.rl.stop_at_return, config.network.width) == (None, 1e-3)
    with pytest.raises(upcycle.UserError, match=r"did you mean learner\.batch_size"):
        upcycle.load_preset("catch", {"learner.batchsize": 32})


def test_an_ended_run_tells_what_it_came_to(ended: upcycle.Run):
    progress = ended.progress()
    assert (ended.name, progress.state, progress.phase) == ("catch", "finished", "done")
    assert ended.config.env.task == "Catch-v0"
    seen = list[upcycle.Progress]()
    summary = ended.wait(timeout_seconds=10.0, on_progress=seen.append)
    assert seen == [progress]
    assert summary["env_id"] == "Catch-v0"
    assert summary == ended.summary()
    ended.stop()
    with pytest.raises(upcycle.UserError, match="known runs: catch"):
        upcycle.open_run("catsh", runs=ended.path.parent)


def test_policies_of_every_kind_are_evaluated(ended: upcycle.Run, tmp_path: Path):
    games = upcycle.evaluate(ended, episodes=20)
    assert (len(games.returns), len(games.lengths)) == (20, 20)
    assert games.mean_return == pytest.approx(games.returns.mean())
    assert games.interval.low <= games.mean_return <= games.interval.high
    np.testing.assert_array_equal(upcycle.evaluate(ended, episodes=20).returns, games.returns)

    def stays(observation: Array) -> Array:
        return np.tile(np.array([0.0, 1.0, 0.0], np.float32), (len(observation), 1))

    with pytest.raises(ValueError, match="env"):
        upcycle.evaluate(stays)
    still = upcycle.evaluate(stays, env=upcycle.EnvConfig(task="Catch-v0"), episodes=20, epsilon=0.0)
    assert set(still.returns) == {-1.0, 1.0}
    record = upcycle.publish_teacher(ended, name="catcher", episodes=4, store=tmp_path)
    teacher = upcycle.load_teacher("catcher", store=tmp_path)
    assert teacher.record == record
    assert teacher.observation_shape == (1, 50)
    assert len(upcycle.evaluate(teacher, episodes=3).returns) == 3
    log, of_teacher = upcycle.open_log(ended), upcycle.open_log(record, store=tmp_path)
    assert len(log) == len(of_teacher) > 5_000
    assert log.columns(newest=100)["frame"].shape[1:] == (50,)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_started_watched_and_stopped(tmp_path: Path):
    config = upcycle.load_preset("catch", CHANGES | {"rl.env_frames": 10_000_000})
    seen = list[upcycle.Progress]()
    with upcycle.run(config, runs=tmp_path) as run:
        with pytest.raises(TimeoutError, match="has not ended"):
            run.wait(timeout_seconds=1.0, on_progress=seen.append)
        wait_until(lambda: run.progress().env_frames > 0)
        assert run.progress().state == "running"
        with pytest.raises(upcycle.UserError, match="exists already"):
            upcycle.run(config, runs=tmp_path)
        again = upcycle.open_run("catch", runs=tmp_path)
        assert again.progress().state == "running"
    assert seen[0].state == "starting"
    assert run.progress().state == again.progress().state == "stopped"
    assert run.wait()["state"] == "stopped"


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_plan_refuses_is_raised_by_waiting(tmp_path: Path):
    config = upcycle.load_preset("catch", {"env.task": "Cach-v0"})
    run = upcycle.run(config, runs=tmp_path)
    with pytest.raises(upcycle.RunFailed, match="Catch-v0"):
        run.wait(timeout_seconds=200.0)
    assert not (tmp_path / "catch").exists()
    assert run.progress().state == "failed"


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_stopped_before_it_has_begun_leaves_nothing(tmp_path: Path):
    with upcycle.run(upcycle.load_preset("catch"), runs=tmp_path):
        pass
    assert not (tmp_path / "catch").exists()
