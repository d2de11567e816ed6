from pathlib import Path
from typing import Any

import pytest

from actors.envs import EnvPoolLanes, chunk_spec, env_spec
from orchestrator.baselines import Baselines, teachers_of
from orchestrator.run.preparation import prepare_run
from orchestrator.run.progress import SilentView
from orchestrator.run.run_checks import check_run
from teacher_store.records.record import Score, TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from tests.helpers.runs import catch, plan_for
from tests.orchestrator.processes.test_evaluator import weights
from upcycle.errors import UserError
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import write_snapshot

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
    return store.publish(NewTeacher(**(arguments | changes)))


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers", bundled=None)


def test_a_run_from_scratch_needs_no_teacher_and_measures_random_play(tmp_path: Path):
    plan = plan_for(catch(), tmp_path)
    assert plan.teachers == ()
    assert -1.0 <= plan.baselines.random < 0.2
    assert plan.spec == chunk_spec(plan.config.env, 16, plan.config.replay.max_n_step)
    assert (plan.to_manifest()["teacher"], plan.to_manifest()["teachers"]) == (None, [])


def test_a_teacher_without_a_buffer_plays_first_and_its_chunks_are_adopted(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path)
    plan = plan_for(catch(*OFFLINE, "teacher.collect_frames=600"), store.root)
    (teacher,) = plan.teachers
    assert teacher.log is not None
    assert teacher.record.experience is not None
    assert teacher.record.experience.transitions >= 600
    known = plan.to_manifest()["teacher"]
    assert (known["score"], known["id"]) == (0.8, teacher.record.id)
    assert plan.to_manifest()["teachers"] == [known]
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
    (teacher,) = plan.teachers
    assert teacher.record.score is not None
    assert store.get("catcher").score == teacher.record.score
    assert teacher.log is None


def test_checking_plays_nothing_and_writes_nothing(
    store: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def play(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody plays")

    monkeypatch.setattr(EnvPoolLanes, "__init__", play)
    publish(store, tmp_path, mean_return=None, random_score=None)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    checked = check_run(catch(*OFFLINE, "teacher.collect_frames=600"), store)
    assert [record.name for record in checked.records] == ["catcher"]
    with pytest.raises(UserError, match="has left no experience"):
        check_run(catch(*OFFLINE), store)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "has left no experience"),
        (("teacher.id=catchr",), "did you mean catcher"),
        (("env.task=CartPole-v1",), "env.task"),
        (("env.task=Pendulum-v1",), "discrete"),
        (("teacher.tolerance=5",), "not above the random policy"),
        (("network.kind=impala",), "does not see vectors"),
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
    checked = check_run(catch(*OFFLINE, "teacher.collect_frames=600"), store)
    with pytest.raises(UserError, match="stopped"):
        prepare_run(checked, store, stop=stop, view=SilentView())
    assert store.get("catcher") == record


def test_several_teachers_are_all_checked_and_the_best_is_the_one_to_reach(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path, mean_return=0.5)
    publish(store, tmp_path, mean_return=0.9, name="other")
    both = ("phases=offline,online", "teacher.id=catcher", "teacher.also=other", "teacher.collect_frames=300")
    plan = plan_for(catch(*both), store.root)
    manifest = plan.to_manifest()
    assert [known["name"] for known in manifest["teachers"]] == ["catcher", "other"]
    assert [known["score"] for known in manifest["teachers"]] == [0.5, 0.9]
    assert manifest["teacher"] == manifest["teachers"][1]
    assert plan.baselines == Baselines(-0.6, 0.9)
    for known in manifest["teachers"]:  # in chunks of one form
        assert ExperienceLogReader.open(Path(known["log"])).spec == plan.spec
    with pytest.raises(UserError, match=r"teacher.also.*named twice"):
        plan_for(catch(*both, "teacher.also=other,catcher"), store.root)
    publish(store, tmp_path, mean_return=-0.7, name="poor")
    with pytest.raises(UserError, match="not above the random policy"):
        plan_for(catch(*both, "teacher.also=other,poor"), store.root)
    publish(store, tmp_path, name="elsewhere", env=catch().env.model_copy(update={"frame_stack": 2}))
    with pytest.raises(UserError, match=r"env\.frame_stack"):
        plan_for(catch(*both, "teacher.also=elsewhere"), store.root)


def test_who_has_no_buffer_plays_in_chunks_of_the_form_that_the_others_have(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path)
    publish(store, tmp_path, name="other")
    first = plan_for(catch(*OFFLINE, "teacher.id=other", "teacher.collect_frames=300"), store.root)
    both = (*OFFLINE, "teacher.also=other", "teacher.collect_frames=300", "replay.chunk_steps=32")
    plan = plan_for(catch(*both), store.root)
    assert plan.spec == first.spec
    assert all(teacher.log is not None for teacher in plan.teachers)
    publish(store, tmp_path, name="third")
    plan_for(catch(*OFFLINE, "teacher.id=third", "teacher.collect_frames=300", "replay.chunk_steps=32"), store.root)
    with pytest.raises(UserError, match=r"teacher\.also = 'third-.*another form"):
        plan_for(catch(*OFFLINE, "teacher.also=third"), store.root)


def test_a_manifest_of_old_names_its_only_teacher():
    known = {"id": "a-1", "score": 1.0}
    assert teachers_of({"teacher": None}) == teachers_of({}) == []
    assert teachers_of({"teacher": known}) == [known]
    assert teachers_of({"teacher": known, "teachers": [{"id": "b-2"}, known]}) == [{"id": "b-2"}, known]


def test_any_teacher_is_taken_if_that_is_wanted(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path, mean_return=-0.6)
    plan = plan_for(catch("phases=online", "teacher.id=catcher", "teacher.accept_any=true"), store.root)
    assert plan.baselines == Baselines(-0.6, -0.6)
    assert plan.baselines.normalise(0.3) is None


def test_a_log_is_wanted_where_batches_are_of_it(store: TeacherStore, tmp_path: Path):
    publish(store, tmp_path)
    online = ("phases=online,rl", "teacher.id=catcher")
    assert [teacher.log for teacher in plan_for(catch(*online), store.root).teachers] == [None]
    with pytest.raises(UserError, match="has left no experience"):
        plan_for(catch(*online, "online.teacher_fraction=0.5"), store.root)
    with pytest.raises(UserError, match="has left no experience"):
        plan_for(catch("phases=rl", "teacher.id=catcher", "teacher.reload=weights_and_replay"), store.root)


def test_a_run_that_begins_as_its_teacher_has_its_network(store: TeacherStore, tmp_path: Path):
    record = publish(store, tmp_path)
    scratch = plan_for(catch("phases=rl", "teacher.id=catcher"), store.root)
    assert (scratch.teachers, scratch.baselines.teacher) == ((), None)
    begins = ("phases=rl", "teacher.id=catcher", "teacher.reload=weights")
    plan = plan_for(catch(*begins), store.root)
    assert [teacher.record for teacher in plan.teachers] == [record]
    assert plan.baselines == Baselines(-0.6, 0.8)
    with pytest.raises(
        UserError, match=r"network\.hidden = 32: .*whose network has 64; set network\.hidden=64"
    ) as error:
        plan_for(catch(*begins, "network.hidden=32"), store.root)
    assert record.id in str(error.value)


def test_a_teacher_of_all_actions_may_teach_but_its_weights_and_its_buffer_are_not_taken(
    store: TeacherStore, tmp_path: Path
):
    small = ("env.task=Pong-v5", "env.frame_size=42", "network.kind=nature", "network.width=0.25", "network.hidden=16")
    config = catch(*small, "teacher.id=catcher", "phases=online")
    network = build_network(config.network, frame_shape=(42, 42), stack=4, num_actions=18)
    write_snapshot(tmp_path / "pong", to_numpy(network.state_dict()), {})
    env = config.env.model_copy(update={"full_action_space": True})
    shape: dict[str, Any] = {"frame_shape": (42, 42), "frame_stack": 4, "num_actions": 18, "weights": tmp_path / "pong"}
    record = publish(store, tmp_path, env=env, network=config.network, **shape)
    assert [teacher.record for teacher in plan_for(config, store.root).teachers] == [record]
    for phases, reload, message in (
        ("offline", "nothing", r"its buffer has the actions noop.*set env\.full_action_space=True"),
        ("online", "weights", r"teacher\.reload .* its weights are for the actions noop"),
    ):
        changes = ("teacher.id=catcher", f"phases={phases}", f"teacher.reload={reload}")
        with pytest.raises(UserError, match=message):
            plan_for(catch(*small, *changes), store.root)
