from pathlib import Path

import pytest

from teacher_store.records.action_order import check_agrees
from teacher_store.records.record import OptimizerKind
from teacher_store.records.reload import check_reload
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import ENV, make_training_state, make_weights, publish
from upcycle.config.run import NetworkConfig
from upcycle.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_size": 84}, r"env\.frame_size = 84: .* trained with 42 \(wrong frame size\); set env\.frame_size=42"),
        ({"frame_stack": 2}, r"env\.frame_stack = 2: .* trained with 4"),
        ({"task": "Breakout-v5"}, r"env\.task = 'Breakout-v5': .* trained with 'Pong-v5'"),
        ({"sticky_actions": 0.25}, r"env\.sticky_actions = 0\.25"),
        ({"stack_fill": "zeros"}, r"env\.stack_fill = 'zeros'"),
        ({"resize_order": "resize_first"}, r"env\.resize_order = 'resize_first': .*; set env\.resize_order=pool_first"),
        ({"interpolation": "bilinear"}, r"env\.interpolation = 'bilinear': .* trained with 'area'"),
    ],
)
def test_a_student_that_would_see_something_else_is_refused(
    store: TeacherStore, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    record = publish(store, make_weights(tmp_path))
    with pytest.raises(UserError, match=message):
        check_agrees(record, ENV.model_copy(update=change), num_actions=6)


def test_a_student_may_start_and_end_its_episodes_differently(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    check_agrees(record, ENV.model_copy(update={"noop_max": 1, "episodic_life": True}), num_actions=6)
    with pytest.raises(UserError, match="has 6 actions, the environment 18"):
        check_agrees(record, ENV, num_actions=18)


@pytest.mark.parametrize(
    ("change", "optimizer", "message"),
    [
        ({"hidden": 256}, None, r"network\.hidden = 256: .* has 512; set network\.hidden=512"),
        ({"head": "c51"}, None, r"network\.head = 'c51'"),
        ({}, "rmsprop", r"teacher\.optimizer = 'restored': .* the state of adam, the student has rmsprop; .*=adam"),
    ],
)
def test_a_student_that_cannot_begin_as_its_teacher_is_refused(
    store: TeacherStore, tmp_path: Path, change: dict[str, object], optimizer: OptimizerKind | None, message: str
) -> None:
    make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    with pytest.raises(UserError, match=message):
        check_reload(record, NetworkConfig().model_copy(update=change), optimizer)


def test_a_student_that_can_begin_as_its_teacher_may(store: TeacherStore, tmp_path: Path) -> None:
    make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    check_reload(record, NetworkConfig(atoms=5), "adam")  # a q head has no atoms
    check_reload(record, NetworkConfig(), None)
    without = publish(store, make_weights(tmp_path), name="without")
    check_reload(without, NetworkConfig(), None)
    with pytest.raises(UserError, match=r"without its optimizer; set teacher\.optimizer=fresh"):
        check_reload(without, NetworkConfig(), "adam")
