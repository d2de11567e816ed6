"""Python functions of an installed distribution as teachers: tried, scored, and teaching a student of Catch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.cli.app import main
from orchestrator.teachers.register_function import RegisterOptions, register_function
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from tests.helpers.in_process import run_in_process
from tests.helpers.installed import install
from tests.orchestrator.run.test_methods import FADING, GOOD_RETURN, small
from tests.orchestrator.run.test_several_teachers import states, values_of_going_to
from upcycle.errors import UserError

pytestmark = pytest.mark.slow

CATCHER = RegisterOptions("catchers.Catcher", "Catch-v0", "catcher", episodes=20)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path / "packages", monkeypatch)
    return tmp_path / "packages"


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers", bundled=None)


def test_a_function_becomes_a_teacher_with_cost_and_score(store: TeacherStore) -> None:
    record = register_function(store, CATCHER)
    function = record.function
    assert function is not None
    assert (function.entry_point, function.distribution, function.version) == ("catchers.Catcher", "catchers", "1.0")
    assert (record.kind, record.cacheable, record.actions) == ("q_values", True, ("left", "stay", "right"))
    assert (record.network, record.weights, record.num_actions) == (None, None, 3)
    assert 0 < function.seconds_per_state < 0.1
    assert record.score is not None
    assert (record.score.mean_return, record.score.actions) == (1.0, "greedy")
    assert store.get("catcher") == record
    store.verify(record)
    observations, ball, paddle = states()
    values = load_teacher(record, store).values(torch.from_numpy(observations))
    np.testing.assert_array_equal(values.numpy(), values_of_going_to(ball, paddle))
    with pytest.raises(UserError, match="is in the store already"):
        register_function(store, CATCHER)


def test_a_function_that_gives_probabilities_and_is_not_cacheable_teaches_through_all_phases(
    store: TeacherStore, tmp_path: Path
) -> None:
    record = register_function(store, replace(CATCHER, entry_point="catchers.Dice", name="dice"))
    assert (record.kind, record.cacheable) == ("probabilities", False)
    assert record.score is not None
    assert (record.score.actions, record.score.mean_return > 0.8) == ("sampled", True)
    config = small("qdagger_dqn", *FADING, "teacher.id=dice", "teacher.collect_frames=1500")
    run = run_in_process(config, tmp_path / "run", store)
    phases = run.folder.phases()
    assert [phase["phase"] for phase in phases] == ["offline", "online", "rl"]
    assert phases[0]["teacher_states"] == phases[0]["learner_steps"] * config.learner.batch_size  # for every batch
    assert run.mean_return > GOOD_RETURN


def test_a_cacheable_function_is_asked_once_for_each_stored_state(store: TeacherStore, tmp_path: Path) -> None:
    register_function(store, CATCHER)
    config = small("qdagger_dqn", *FADING, "phases=offline", "teacher.collect_frames=1500", "offline.learner_steps=200")
    run = run_in_process(config, tmp_path / "run", store)
    experience = store.get("catcher").experience
    assert experience is not None
    assert 0.9 * experience.transitions < run.folder.phases()[0]["teacher_states"] <= experience.transitions
    assert run.mean_return > GOOD_RETURN


def test_another_version_than_the_one_that_was_registered_is_refused(
    store: TeacherStore, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = register_function(store, replace(CATCHER, episodes=0))
    install(installed, monkeypatch, version="1.1")
    with pytest.raises(UserError, match=r"is of catchers 1\.1, was registered from catchers 1\.0.*catchers==1\.0"):
        load_teacher(record, store)
    again = register_function(store, replace(CATCHER, episodes=0, name="newer"))
    assert again.id.rsplit("-", 1)[1] != record.id.rsplit("-", 1)[1]
    install(installed.with_name("more"), monkeypatch, distribution="copies")
    with pytest.raises(UserError, match=r"several have this entry point.*uninstall all but one of catchers, copies"):
        load_teacher(again, store)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"entry_point": "catchers.Catchr"}, "no installed distribution.*did you mean catchers.Catcher"),
        ({"entry_point": "unheard.of"}, "no installed distribution.*install the distribution"),
        ({"entry_point": "catchers.missing"}, "cannot be loaded .AttributeError.*reinstall catchers"),
        ({"entry_point": "catchers.not_callable"}, "cannot be called"),
        ({"entry_point": "catchers.plain"}, "does not say what it returns.*--kind q_values"),
        ({"entry_point": "catchers.raises", "kind": "q_values"}, "catchers.raises of catchers 1.0.*RuntimeError: no"),
        ({"entry_point": "catchers.narrow", "kind": "q_values"}, r"float32 \[32, 2\] instead of float \[32, 3\]"),
        ({"entry_point": "catchers.whole", "kind": "q_values"}, "returned int64"),
        ({"entry_point": "catchers.infinite", "kind": "q_values"}, "catchers.infinite.*not finite"),
        ({"kind": "probabilities"}, "returned no probabilities"),
        ({"entry_point": "catchers.Dice", "cacheable": True}, "said to be cacheable.*asked again.*--no-cacheable"),
        (
            {"entry_point": "catchers.of_the_batch", "kind": "q_values", "cacheable": True},
            "said to be cacheable.*in another batch",
        ),
        ({"task": "CartPole-v1"}, "has 2 actions, the function names 3"),
        (
            {"entry_point": "catchers.Pusher", "task": "CartPole-v1"},
            "has the actions push left, push right, the function names go left, go right; let it name them",
        ),
        ({"overrides": ("learner.batch_size=3",)}, "--set.*no field of the environment"),
    ],
)
def test_what_a_function_may_not_be(change: dict[str, object], problem: str, store: TeacherStore) -> None:
    with pytest.raises(UserError, match=problem):
        register_function(store, replace(CATCHER, **change))  # pyright: ignore[reportArgumentType]
    assert store.list() == []


def test_the_commands_register_and_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["teacher", "register", "catchers.plain", "--task", "Catch-v0", "--episodes", "3"]
    assert main([*arguments, "--kind", "q_values", "--name", "plain"]) == 0
    shown = capsys.readouterr().out
    assert "Python function catchers.plain of catchers 1.0 (q values)" in shown
    assert "anew for every batch: it is not cacheable" in shown
    assert "3 games, greedy actions" in shown
    assert main([*arguments, "--kind", "q_values", "--cacheable", "--name", "kept"]) == 0
    assert "once for each stored state" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "--kind" in capsys.readouterr().err
    assert main([*arguments, "--cacheable", "--no-cacheable"]) == 2
    assert "contradicts" in capsys.readouterr().err
