from pathlib import Path

import numpy as np
import pytest
import torch

from teacher_store.records.record import TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

ENV = EnvConfig(frame_size=42)
NETWORK = NetworkConfig(width=0.25, hidden=16)


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def publish(store: TeacherStore, tmp_path: Path, *, network: NetworkConfig = NETWORK) -> tuple[TeacherRecord, QNetwork]:
    torch.manual_seed(0)
    original = build_network(NETWORK, frame_shape=(42, 42), stack=4, num_actions=6)
    write_snapshot(tmp_path / "w", to_numpy(original.state_dict()), {})
    record = store.publish(
        NewTeacher(
            name="pong",
            env=ENV,
            network=network,
            frame_shape=(42, 42),
            frame_stack=4,
            num_actions=6,
            weights=tmp_path / "w",
        )
    )
    return record, original


def observations(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_values_are_those_of_the_published_network_without_gradients(store: TeacherStore, tmp_path: Path) -> None:
    record, original = publish(store, tmp_path)
    generator = torch.random.get_rng_state()
    teacher = load_teacher(record, store, env=ENV, num_actions=6)
    assert torch.equal(torch.random.get_rng_state(), generator)
    seen = observations(5, 4, 42, 42)
    values = teacher.values(seen)
    assert values.shape == (5, 6)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    torch.testing.assert_close(values, original(seen).detach())


@pytest.mark.parametrize("shape", [(2, 4, 84, 84), (2, 3, 42, 42), (4, 42, 42)])
def test_other_observations_are_refused(store: TeacherStore, tmp_path: Path, shape: tuple[int, ...]) -> None:
    teacher = load_teacher(publish(store, tmp_path)[0], store)
    with pytest.raises(ValueError, match="sees"):
        teacher.values(observations(*shape))


def test_a_student_with_frames_of_another_size_is_refused(store: TeacherStore, tmp_path: Path) -> None:
    record, _ = publish(store, tmp_path)
    with pytest.raises(UserError, match="wrong frame size"):
        load_teacher(record, store, env=EnvConfig(frame_size=84))


def test_damaged_weights_are_refused(store: TeacherStore, tmp_path: Path) -> None:
    record, _ = publish(store, tmp_path)
    path = store.weights_path(record)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match="SHA-256"):
        load_teacher(record, store)


def test_weights_of_another_network_than_the_record_says_are_refused(store: TeacherStore, tmp_path: Path) -> None:
    record, _ = publish(store, tmp_path, network=NetworkConfig(width=0.5, hidden=16))
    with pytest.raises(CorruptDataError, match="do not fit the network"):
        load_teacher(record, store)


def test_a_record_that_describes_no_network_is_refused(store: TeacherStore, tmp_path: Path) -> None:
    record, _ = publish(store, tmp_path, network=NetworkConfig(kind="mlp"))
    with pytest.raises(CorruptDataError, match="describes no network"):
        load_teacher(record, store)
