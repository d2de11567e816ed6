from pathlib import Path

import numpy as np
import pytest
import torch

import upcycle
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from tests.helpers.torch_agents import cleanrl, saved


def test_the_bundled_teacher_maps_numpy_to_numpy(tmp_path: Path):
    teacher = upcycle.load_teacher("pong-dqn-42", store=tmp_path)
    assert (teacher.observation_shape, teacher.observation_dtype, teacher.num_actions) == ((4, 42, 42), "uint8", 6)
    observations = np.random.default_rng(0).integers(0, 256, (3, 4, 42, 42), np.uint8)
    observations.flags.writeable = False
    values = teacher.values(observations)
    assert (values.shape, values.dtype) == ((3, 6), np.float32)
    store = TeacherStore(tmp_path)
    expected = load_teacher(store.get("pong-dqn-42"), store).values(torch.tensor(observations))
    np.testing.assert_array_equal(values, expected.numpy())
    assert "Pong-v5" in repr(teacher)
    assert "8.6" in repr(teacher)


def test_observations_of_another_kind_are_refused(tmp_path: Path):
    teacher = upcycle.load_teacher("pong-dqn-42", store=tmp_path)
    with pytest.raises(ValueError, match="float32: this teacher sees uint8"):
        teacher.values(np.zeros((1, 4, 42, 42), np.float32))
    with pytest.raises(ValueError, match="sees"):
        teacher.values(np.zeros((1, 4, 84, 84), np.uint8))
    with pytest.raises(upcycle.UserError, match="pong-dqn-42"):
        upcycle.load_teacher("pong-dqn-24", store=tmp_path)


def test_what_is_imported_is_listed_and_can_be_asked(tmp_path: Path):
    path = tmp_path / "agent.cleanrl_model"
    path.write_bytes(saved(cleanrl(outputs=6)))
    before = {record.id for record in upcycle.list_teachers(store=tmp_path / "store")}
    record = upcycle.import_teacher(path, name="mine", task="Pong-v5", episodes=0, store=tmp_path / "store")
    after = {record.id for record in upcycle.list_teachers(store=tmp_path / "store")}
    assert after - before == {record.id}
    teacher = upcycle.load_teacher("mine", store=tmp_path / "store")
    assert teacher.record == record
    assert teacher.values(np.zeros((2, *teacher.observation_shape), np.uint8)).shape == (2, 6)
