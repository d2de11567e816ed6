"""Teachers whose actions have other numbers than their students'."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from teacher_store.records.action_order import action_order, check_agrees, check_taken_as_is
from teacher_store.records.record import TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.errors import UserError
from upcycle.networks.action_names import action_names
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

MINIMAL = EnvConfig(frame_size=42)
FULL = MINIMAL.model_copy(update={"full_action_space": True})
NETWORK = NetworkConfig(width=0.25, hidden=16)
BACKWARDS = tuple(reversed(action_names(MINIMAL)))


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def publish(store: TeacherStore, env: EnvConfig, num_actions: int, **changes: Any) -> tuple[TeacherRecord, QNetwork]:
    torch.manual_seed(0)
    network = build_network(NETWORK, frame_shape=(42, 42), stack=4, num_actions=num_actions)
    path = store.root.parent / "weights"
    write_snapshot(path, to_numpy(network.state_dict()), {})
    arguments: dict[str, Any] = {
        "name": "teacher",
        "env": env,
        "network": NETWORK,
        "frame_shape": (42, 42),
        "frame_stack": 4,
        "num_actions": num_actions,
        "weights": path,
    }
    return store.publish(NewTeacher(**(arguments | changes))), network


def test_a_teacher_of_all_actions_teaches_those_that_the_game_knows(store: TeacherStore) -> None:
    record, network = publish(store, FULL, 18)
    seen = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 42, 42), np.uint8))
    teacher = load_teacher(record, store, env=MINIMAL, num_actions=6)
    everything = network(seen).detach()
    torch.testing.assert_close(teacher.values(seen), everything[:, [0, 1, 3, 4, 11, 12]])
    chosen = torch.softmax(everything, dim=1)[:, [0, 1, 3, 4, 11, 12]]
    policy = torch.softmax(teacher.values(seen), dim=1)
    torch.testing.assert_close(policy, chosen / chosen.sum(dim=1, keepdim=True))
    torch.testing.assert_close(load_teacher(record, store, env=FULL).values(seen), everything)


def test_a_teacher_with_its_own_order_teaches_and_plays_in_that_of_the_environment(store: TeacherStore) -> None:
    record, network = publish(store, MINIMAL, 6, actions=BACKWARDS)
    seen = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 42, 42), np.uint8))
    teacher = load_teacher(record, store, env=MINIMAL, num_actions=6)
    torch.testing.assert_close(teacher.values(seen), network(seen).detach().flip(1))
    assert action_order(record, FULL.model_copy(update={"full_action_space": False})) == (5, 4, 3, 2, 1, 0)


def test_a_student_with_an_action_that_the_teacher_lacks_is_refused(store: TeacherStore) -> None:
    record, _ = publish(store, MINIMAL, 6)
    with pytest.raises(UserError, match=r"knows noop, .*, and not up, down, .*; set env\.full_action_space=False"):
        check_agrees(record, FULL, num_actions=18)
    record, _ = publish(store, MINIMAL, 6, name="other", actions=("noop", "up", "a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"teacher\.id .* not fire, right, .*; choose another teacher"):
        load_teacher(record, store, env=MINIMAL)


def test_sets_that_are_the_same_need_no_mapping(store: TeacherStore) -> None:
    seaquest = MINIMAL.model_copy(update={"task": "Seaquest-v5"})
    record, _ = publish(store, seaquest, 18)
    full = seaquest.model_copy(update={"full_action_space": True})
    check_agrees(record, full, num_actions=18)
    check_taken_as_is(record, full, weights=True, buffer=True)
    assert action_order(record, full) is None


def test_nothing_is_mapped_where_nobody_knows_what_actions_mean(store: TeacherStore) -> None:
    record, _ = publish(store, MINIMAL.model_copy(update={"task": "Unknown-v5"}), 5)
    assert action_order(record, record.env) is None
    with pytest.raises(UserError, match=r"env\.full_action_space = True: .* trained with False"):
        check_agrees(record, record.env.model_copy(update={"full_action_space": True}))
    with pytest.raises(UserError, match="has 5 actions, the environment 6"):
        check_agrees(record, record.env, num_actions=6)


def test_weights_and_buffers_are_taken_with_their_own_numbers_alone(store: TeacherStore) -> None:
    full, _ = publish(store, FULL, 18)
    backwards, _ = publish(store, MINIMAL, 6, name="backwards", actions=BACKWARDS)
    check_taken_as_is(full, MINIMAL, weights=False, buffer=False)
    check_taken_as_is(backwards, MINIMAL, weights=False, buffer=True)  # it was played with the environment's numbers
    for record in (full, backwards):
        with pytest.raises(UserError, match=r"teacher\.reload .* its weights are for the actions"):
            check_taken_as_is(record, MINIMAL, weights=True, buffer=False)
    with pytest.raises(UserError, match=r"its buffer has the actions noop, .*set env\.full_action_space=True"):
        check_taken_as_is(full, MINIMAL, weights=False, buffer=True)
