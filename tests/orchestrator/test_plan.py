from pathlib import Path
from typing import Any

import pytest

from actors.envs import chunk_spec, env_spec
from orchestrator.plan import make_plan
from orchestrator.progress import SilentView
from teacher_store.records import Score, TeacherRecord
from teacher_store.store import TeacherStore
from tests.orchestrator.runs import catch, plan_for
from tests.orchestrator.test_evaluator import weights
from upcycle.errors import UserError
from upcycle.runtime import StopSignal
from upcycle.snapshots import write_snapshot

OFFLINE = ("phases=offline,online", "teacher.id=catcher")


def publish(store: TeacherStore, tmp_path: Path, *, mean_return: float | None = 0.8, **changes: Any) -> TeacherRecord:
    config, path = catch(), tmp_path / "weights.safetensors"
    write_snapshot(path, weights(), {})
    spec = env_spec(config.env)
    score = None
    if mean_return is not None:
        low, high = mean_return - 0.1, mean_return + 0.1
        score = Score(mean_return=mean_return, episodes=10, epsilon=0.0, interval_low=low, interval_high=high)
    arguments: dict[str, Any] = {
        "name": "catcher",
        "env": config.env,
        "network": config.network,
        "frame_shape": spec.frame_shape,
        "frame_stack": spec.stack,
        "num_actions": spec.num_actions,
        "weights": path,
        "score": score,
        "random_score": -0.6,
    }
    return store.publish(**(arguments | changes))


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers", bundled=None)


def test_a_run_from_scratch_needs_no_teacher_and_measures_random_play(tmp_path: Path):
    plan = plan_for(catch(), tmp_path)
    assert plan.teacher is None
    assert -1.0 <= plan.baselines.random < 0.2
    assert plan.spec == chunk_spec(plan.config.env, 16, plan.config.replay.max_n_step)
    assert plan.to_manifest()["teacher"] is None


def test_a_teacher_without_a_buffer_plays_first_and_its_chunks_are_adopted(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path)
    plan = plan_for(catch(*OFFLINE, "teacher.collect_frames=600"), store.root)
    assert plan.log is not None
    assert plan.teacher is not None
    assert plan.teacher.experience is not None
    assert plan.teacher.experience.transitions >= 600
    known = plan.to_manifest()["teacher"]
    assert (known["score"], known["id"]) == (0.8, plan.teacher.id)
    assert Path(known["log"]).is_dir()
    # Another length of chunks or a shorter horizon are views of the same buffer, which is not collected again.
    later = plan_for(catch(*OFFLINE, "replay.chunk_steps=64", "learner.n_step=1"), store.root)
    assert later.spec == plan.spec
    with pytest.raises(UserError, match=r"learner\.n_step = 7.*5 steps at most"):
        plan_for(catch(*OFFLINE, "replay.max_n_step=7", "learner.n_step=7"), store.root)


def test_a_teacher_that_was_never_scored_is_scored_once(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path, mean_return=None, random_score=-1.5)
    config = catch("phases=online", "teacher.id=catcher")
    plan = plan_for(config, store.root)
    assert plan.teacher is not None
    assert plan.teacher.score is not None
    assert store.get("catcher").score == plan.teacher.score
    assert plan.log is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "has left no experience"),
        (("teacher.id=catchr",), "did you mean catcher"),
        (("env.task=CartPole-v1",), "env.task"),
        (("env.task=Pendulum-v1",), "discrete"),
        (("teacher.tolerance=5",), "not above the random policy"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    store: TeacherStore, tmp_path: Path, overrides: tuple[str, ...], message: str
):
    publish(store, tmp_path)
    with pytest.raises(UserError) as error:
        plan_for(catch(*OFFLINE, *overrides), store.root)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_teacher_no_better_than_chance_is_refused(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path, mean_return=-0.6)
    with pytest.raises(UserError, match="not above the random policy"):
        plan_for(catch(*OFFLINE), store.root)


def test_a_wrong_frame_size_is_refused(store: TeacherStore, tmp_path: Path):
    env = catch().env.model_copy(update={"frame_size": 42})
    publish(store, tmp_path, env=env)
    with pytest.raises(UserError, match="wrong frame size"):
        plan_for(catch(*OFFLINE), store.root)


def test_stopping_while_the_teacher_plays_leaves_it_as_it_was(store: TeacherStore, tmp_path: Path):
    record, stop = publish(store, tmp_path), StopSignal()
    stop.set()
    with pytest.raises(UserError, match="stopped"):
        make_plan(catch(*OFFLINE, "teacher.collect_frames=600"), store, stop=stop, view=SilentView())
    assert store.get("catcher") == record
