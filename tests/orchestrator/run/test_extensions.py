"""Runs with a loss term, a torso, a head, an exploration and an environment that Upcycle does not have."""

import importlib
from pathlib import Path

import numpy as np
import pytest

import upcycle
from learner.loss_terms import custom_terms
from orchestrator.run.extension_checks import try_extensions
from orchestrator.teachers.publishing import find_weights
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from tests.helpers.extension_package import MODULE, install, uninstall
from tests.helpers.in_process import run_in_process
from tests.helpers.runs import catch, plan_for
from upcycle.config.extension_use import extensions_of_run, record_extensions
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder

OVERRIDES = (
    "loss_terms.sure.use=entropy",
    "loss_terms.sure.coefficient=0.01",
    "loss_terms.sure.options.temperature=0.5",
    "network.custom_torso=two_layers",
    "network.torso_options.width=24",
    f"network.custom_head={MODULE}:scaled",
    "network.head_options.scale=0.25",
    "actors.exploration=softmax",
    f"env.factory={MODULE}:Repeat",
    "rl.env_frames=6000",
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path / "site", monkeypatch)
    return tmp_path / "site"


def test_a_run_trains_with_all_of_them_and_says_what_it_needs(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = TeacherStore(tmp_path / "teachers", bundled=None)
    run = run_in_process(catch(*OVERRIDES), tmp_path / "run", store)
    assert run.mean_return > 3.5  # of 5; random play gets 1.25
    calls = importlib.import_module(MODULE).CALLS
    assert all(count > 0 for count in calls.values()), calls
    weights = find_weights(run.folder, None)[1].tensors
    assert weights["torso.1.weight"].shape == (24, 4)

    recorded = {known.field: known for known in run.folder.extensions}
    assert set(recorded) == {
        "loss_terms.sure.use",
        "network.custom_torso",
        "network.custom_head",
        "actors.exploration",
        "env.factory",
    }
    assert {(known.distribution, known.version) for known in recorded.values()} == {("extensions-of-tests", "1.2")}
    record = upcycle.publish_teacher(run.folder.path, name="repeater", store=tmp_path / "teachers")
    assert {known.field for known in record.extensions} == {
        "network.custom_torso",
        "network.custom_head",
        "env.factory",
    }
    assert "two_layers" in record.describe_policy()
    assert store.get("repeater") == record
    teacher = upcycle.load_teacher("repeater", store=tmp_path / "teachers")
    shown = np.eye(4, dtype=np.float32)[:, None]
    assert teacher.values(shown).argmax(axis=1).tolist() == [0, 1, 2, 3]

    uninstall(site, monkeypatch)
    for act, owner in (
        (lambda: load_teacher(record, store), "teacher"),
        (lambda: upcycle.publish_teacher(run.folder.path, name="again", store=tmp_path / "teachers"), "run"),
    ):
        with pytest.raises(UserError, match=r"install extensions-of-tests==1\.2") as refused:
            act()
        assert refused.value.field == owner


@pytest.mark.usefixtures("site")
def test_a_term_is_active_in_its_phases_alone():
    config = catch("loss_terms.sure.use=entropy", "loss_terms.sure.phases=['offline']")
    assert [term.is_active for term in custom_terms(config, "offline")] == [True]
    assert [term.is_active for term in custom_terms(config, "rl")] == [False]


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        (["loss_terms.a.use=entropi"], "loss_terms.a.use", "did you mean entropy"),
        ([f"loss_terms.a.use={MODULE}:of_the_batch"], "loss_terms.a.use", "instead of float [3]"),
        ([f"loss_terms.a.use={MODULE}:fails", "loss_terms.a.options.level=2"], "loss_terms.a.use", "idea at level 2"),
        (["loss_terms.a.use=entropy", "loss_terms.a.options.warmth=2"], "loss_terms.a.use", "warmth"),
        ([f"network.custom_torso={MODULE}:not_a_pair"], "network.custom_torso", "(module, features)"),
        ([f"network.custom_torso={MODULE}:wrong_size"], "network.custom_torso", "cannot see observations"),
        (["network.custom_torso=missing"], "network.custom_torso", "cannot be loaded"),
        ([f"network.custom_head={MODULE}:too_narrow"], "network.custom_head", "instead of 3 actions"),
        (["network.custom_head=scaled", "network.head_options.skale=1"], "network.custom_head", "skale"),
        ([f"actors.exploration={MODULE}:all_too_high"], "actors.exploration", "outside [0, 3)"),
        (["actors.exploration=softmax", "actors.exploration_options.t=1"], "actors.exploration", "'t'"),
        ([f"env.factory={MODULE}:Broken"], "env.factory", "no such simulator"),
        ([f"env.factory={MODULE}:OtherShape"], "env.factory", "its spec says float32 [2, 1, 5]"),
        (["env.factory=repeat", "env.factory_options.actions=0"], "env.factory", "num_actions=0"),
    ],
)
def test_an_extension_that_cannot_work_is_refused_before_the_run(
    overrides: list[str], field: str, words: str, tmp_path: Path
):
    with pytest.raises(UserError) as refused:
        plan_for(catch(*overrides), tmp_path)
    assert refused.value.field == field
    assert words in str(refused.value)


def test_a_run_without_extensions_needs_none(tmp_path: Path):
    config = RunConfig(phases=("rl",))
    assert record_extensions(extensions_of_run(config)) == ()
    folder = RunFolder.create(tmp_path / "old", config)
    assert folder.extensions == ()
    text = (folder.path / "config.toml").read_text()
    assert not any(word in text for word in ("custom_", "factory", "exploration", "loss_terms", "_options"))
    try_extensions(catch())
