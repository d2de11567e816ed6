"""Teachers that are no Q networks, on Catch: a network that gives probabilities, and a buffer without a policy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.policy import epsilon_greedy
from orchestrator.reports.summary import plain_words, summarise
from orchestrator.teachers.acting import acting
from orchestrator.teachers.publishing import collect_experience, publish_from_run, score_teacher
from teacher_store.records.record import TeacherKind, TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher
from tests.helpers.in_process import run_in_process
from tests.helpers.runs import plan_for
from tests.orchestrator.run.test_methods import FADING, GOOD_RETURN, small
from tests.orchestrator.run.test_several_teachers import ENV, FRAME_SHAPE, NETWORK, NUM_ACTIONS, fitted, states
from upcycle.errors import UserError
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

pytestmark = pytest.mark.slow

SHARPNESS = 20.0
"""Of the probabilities: the best action of Catch, 1/4 ahead in value, gets 0.99."""


def publish(store: TeacherStore, name: str, *, kind: TeacherKind = "probabilities") -> TeacherRecord:
    """A policy that goes where the ball is, with the logits of its probabilities."""
    network = fitted(states()[1], seed=0)
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter *= SHARPNESS
    path = store.root.with_name(f"{name}.weights")
    write_snapshot(path, to_numpy(network.state_dict()), {})
    return store.publish(
        NewTeacher(
            name=name,
            kind=kind,
            env=ENV,
            network=NETWORK,
            frame_shape=FRAME_SHAPE,
            frame_stack=1,
            num_actions=NUM_ACTIONS,
            weights=path,
        )
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    """With a teacher that gives probabilities, and one that is nothing but the buffer of its games."""
    torch.set_num_threads(1)
    store = TeacherStore(tmp_path_factory.mktemp("kinds") / "teachers", bundled=None)
    record, _ = score_teacher(publish(store, "player"), store, episodes=40, seed=0)
    record = collect_experience(record, store, frames=1500, epsilons=(0.1, 0.4), seed=0)
    store.publish(
        NewTeacher(
            name="buffer",
            kind="experience",
            env=ENV,
            network=None,
            frame_shape=FRAME_SHAPE,
            frame_stack=1,
            num_actions=NUM_ACTIONS,
            weights=None,
            log_directory=store.log_directory(record),
        )
    )
    return store


def player(store: TeacherStore) -> Teacher:
    return load_teacher(store.get("player"), store)


def test_its_values_are_log_probabilities_and_its_actions_are_drawn_from_them(store: TeacherStore) -> None:
    teacher, observations = player(store), states()[0][:1]
    values = teacher.values(torch.from_numpy(observations))
    torch.testing.assert_close(values, torch.log_softmax(teacher.network(torch.from_numpy(observations)), dim=1))
    soft = Teacher(teacher.record, fitted(states()[1], seed=0), teacher.device)  # all actions are likely
    expected = soft.values(torch.from_numpy(observations)).exp().detach().numpy()[0]
    assert expected.min() > 0.1
    q_function, rng = acting(soft, seed=1), np.random.default_rng(0)
    drawn = epsilon_greedy(q_function(np.repeat(observations, 4000, axis=0)), 0.0, rng)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, expected, atol=0.03)
    score = teacher.record.score
    assert score is not None
    assert (score.actions, score.mean_return > 0.8) == ("sampled", True)


def test_it_teaches_through_all_phases(store: TeacherStore, tmp_path: Path) -> None:
    config = small("qdagger_dqn", *FADING, "teacher.id=player")
    run = run_in_process(config, tmp_path / "run", store)
    assert [phase["phase"] for phase in run.folder.phases()] == ["offline", "online", "rl"]
    assert run.mean_return > GOOD_RETURN
    assert publish_from_run(run.folder.path, store, name="student").kind == "q_values"


def test_it_guides_and_is_followed_by_a_margin_and_a_gate(store: TeacherStore, tmp_path: Path) -> None:
    config = small(
        "qdagger_dqn", "teacher.id=player", "phases=offline,online", "guide.kind=fading", "guide.fade_frames=2000",
        "distillation.coefficient=0", "margin.coefficient=1", "teacher.combination=value_gated",
        "teacher.gate_tolerance=1", "online.env_frames=500", "distillation.schedule=constant",
    )  # fmt: skip
    run = run_in_process(config, tmp_path / "run", store)
    assert run.mean_return > GOOD_RETURN
    assert run.metrics["actor-0"].value("actor_guided_frames_total") > 100


def test_a_student_cannot_begin_as_it(store: TeacherStore) -> None:
    config = small("finetune_adam", "teacher.id=player", "network.hidden=256")
    with pytest.raises(UserError, match=r"is no Q network but mlp.*gives probabilities; set teacher.reload=nothing"):
        plan_for(config, store.root)


BUFFER_ALONE = ("teacher.id=buffer", "distillation.coefficient=0")


def test_a_buffer_without_a_policy_serves_as_a_buffer(store: TeacherStore, tmp_path: Path) -> None:
    config = small("pretraining", *BUFFER_ALONE, "phases=offline", "offline.learner_steps=60")
    run = run_in_process(config, tmp_path / "run", store)
    assert run.folder.phases()[0]["teacher_states"] == 0
    assert run.folder.manifest["teacher"] is None
    assert [(known["name"], known["score"]) for known in run.folder.manifest["teachers"]] == [("buffer", None)]
    assert "left a buffer and no policy" in plain_words(summarise(run.folder))[1]
    assert publish_from_run(run.folder.path, store, name="grown").parents == (store.get("buffer").id,)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("qdagger_dqn", (), "experience without a policy, and imitation needs one; set distillation.coefficient=0"),
        ("dqfd", (), "experience without a policy, and imitation needs one"),
        ("qdagger_dqn", ("teacher.id=player", "teacher.also=buffer"), "teacher.id = 'buffer.*imitation needs one"),
        ("jsrl", (), "and guide.kind=opening needs one; set guide.kind=nobody"),
        ("finetune_adam", (), "is no Q network but experience without a policy"),
    ],
)
def test_a_buffer_without_a_policy_is_refused_where_a_policy_is_needed(
    preset: str, overrides: tuple[str, ...], message: str, store: TeacherStore
) -> None:
    with pytest.raises(UserError, match=message):
        plan_for(small(preset, "teacher.id=buffer", *overrides), store.root)


def test_a_buffer_without_a_policy_cannot_play(store: TeacherStore) -> None:
    with pytest.raises(UserError, match="has no weights: it is experience without a policy"):
        score_teacher(store.get("buffer"), store, episodes=1, seed=0)


def test_buffers_with_and_without_a_policy_go_together(store: TeacherStore) -> None:
    plan = plan_for(small("rehearsal", "teacher.id=player", "teacher.also=buffer"), store.root)
    assert plan.best is not None
    assert plan.best.record.name == "player"
    assert [teacher.score is None for teacher in plan.teachers] == [False, True]
    assert [known["kind"] for known in plan.to_manifest()["teachers"]] == ["probabilities", "experience"]
