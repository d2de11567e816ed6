"""Datasets that Minari wrote, against what Minari itself reads in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.teachers.importing import ImportOptions, import_experience_into, import_teacher
from teacher_store.importers.imported import ImportedExperience, Request, Rows
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import find_importers
from teacher_store.store.store import TeacherStore
from tests.helpers.imported_transitions import Transition, assert_same_transitions, imported_transitions
from tests.helpers.minari_files import change_metadata, read, reference, unpack
from upcycle.errors import UserError
from upcycle.experience.chunks import Array

FRAMES = ("frames", "frames-jpeg", "stacks-first", "stacks-last")


def newest(name: str, observations: Array) -> Array:
    """[T, *frame]: the newest frame of each of Minari's observations."""
    axis = {"stacks-first": 1, "stacks-last": 3}.get(name)
    return observations if axis is None else np.take(observations, -1, axis)


def expected(name: str, *, stack: int, first_action: int = 0) -> list[Transition]:
    found = list[Transition]()
    for episode in reference(name):
        frames = newest(name, episode["observations"])
        frames = frames.astype(np.float32) if frames.dtype == np.float64 else frames
        for t, action in enumerate(episode["actions"].tolist()):
            seen = [frames[[max(at - back, 0) for back in reversed(range(stack))]] for at in (t, t + 1)]
            ends = bool(episode["terminations"][t])
            reward = float(np.float32(episode["rewards"][t]))
            found.append(Transition(seen[0], action - first_action, reward, None if ends else seen[1]))
    return found


def joined(experience: ImportedExperience, leave_out: int = 0) -> dict[str, Array]:
    blocks = list(experience.rows(leave_out))
    return {name: np.concatenate([getattr(block, name) for block in blocks]) for name in Rows.__slots__}


@pytest.mark.parametrize("name", FRAMES)
def test_images_come_as_minari_reads_them(name: str, tmp_path: Path):
    experience = read(unpack(name, tmp_path / "dataset"), accept_lossy=True)
    assert (experience.frame_shape, experience.frame_dtype, experience.num_actions) == ((84, 84), "uint8", 4)
    fills = {"frame_stack": 4, "stack_fill": "first_frame"} if name.startswith("stacks") else {}
    assert dict(experience.protocol) == {"frame_size": 84, **fills}
    assert experience.task is None
    found = imported_transitions(experience, tmp_path / "log", stack_fill="first_frame")
    assert len(found) == 24
    assert_same_transitions(found, expected(name, stack=4))


def test_vectors_come_as_minari_reads_them_and_say_their_task(tmp_path: Path):
    cartpole = read(unpack("cartpole", tmp_path / "cartpole"))
    assert (cartpole.frame_shape, cartpole.frame_dtype, cartpole.num_actions) == ((4,), "float32", 2)
    assert (cartpole.task, cartpole.facts["dataset_id"]) == ("CartPole-v1", "cartpole/random-v0")
    assert_same_transitions(imported_transitions(cartpole, tmp_path / "log", stack=1), expected("cartpole", stack=1))
    ends = read(unpack("ends", tmp_path / "ends"))
    found = imported_transitions(ends, tmp_path / "log-of-ends", stack=1)
    assert_same_transitions(found, expected("ends", stack=1, first_action=2))


def test_episodes_end_as_they_did_and_what_was_cut_off_can_be_bootstrapped(tmp_path: Path):
    rows = joined(read(unpack("ends", tmp_path)))
    assert np.flatnonzero(rows["first"]).tolist() == [0, 6, 11, 18]
    assert np.flatnonzero(rows["terminated"]).tolist() == [4, 18]
    assert np.flatnonzero(rows["truncated"]).tolist() == [9, 16]  # the second has no flag in the file
    assert np.flatnonzero(rows["final"]).tolist() == [5, 10, 17, 19]


def test_reading_can_begin_at_any_row(tmp_path: Path):
    experience = read(unpack("stacks-last", tmp_path))
    whole = joined(experience)
    for leave_out in (9, 10, 26):
        for name, column in joined(experience, leave_out).items():
            np.testing.assert_array_equal(column, whole[name][leave_out:])
    assert list(experience.rows(27)) == []


def test_the_task_and_the_protocol_are_taken_from_gymnasiums_specification(tmp_path: Path):
    folder = unpack("cartpole", tmp_path)
    known = {
        '{"id": "ALE/Pong-v5", "kwargs": {"repeat_action_probability": 0.1}}': ("Pong-v5", 0.1),
        '{"id": "ALE/Breakout-v5", "kwargs": {"full_action_space": true}}': ("Breakout-v5", 0.25),
        '{"id": "BreakoutNoFrameskip-v4"}': ("Breakout-v5", 0.0),
        '{"id": "Acrobot-v1", "kwargs": {}}': ("Acrobot-v1", None),
        '{"id": "Maze/Large-v3", "kwargs": {}}': (None, None),
        None: (None, None),
    }
    for spec, (task, sticky) in known.items():
        change_metadata(folder, env_spec=spec)
        experience = read(folder)
        assert (experience.task, experience.protocol.get("sticky_actions")) == (task, sticky)
        assert bool(experience.protocol.get("full_action_space")) == ("full_action" in (spec or ""))


def test_a_dataset_becomes_a_teacher_or_is_given_to_one(tmp_path: Path):
    store, folder = TeacherStore(tmp_path / "teachers", bundled=None), unpack("cartpole", tmp_path / "dataset")
    options = ImportOptions(folder, "poles", episodes=0)
    record = import_teacher(store, options)
    assert (record.env.task, record.frame_shape, record.num_actions) == ("CartPole-v1", (4,), 2)
    assert record.experience is not None
    assert record.experience.transitions == 44
    assert record.provenance.source is not None
    assert record.provenance.source.format == "minari"
    with pytest.raises(UserError, match="has 3 actions"):
        import_teacher(store, replace(options, task="MountainCar-v0"))
    again = import_experience_into(store, record.id, options)
    assert again.experience == record.experience


def test_frames_kept_with_loss_are_taken_only_if_that_is_asked_for_and_the_record_says_so(tmp_path: Path):
    store, folder = TeacherStore(tmp_path / "teachers", bundled=None), unpack("frames-jpeg", tmp_path / "dataset")
    options = ImportOptions(folder, "screens", task="Breakout-v5", episodes=0)
    with pytest.raises(UserError, match="--accept-lossy"):
        import_teacher(store, options)
    record = import_teacher(store, replace(options, request=Request(accept_lossy=True)))
    assert record.provenance.source is not None
    assert "with loss" in record.provenance.source.facts["frames"]
    assert list(store.staging.glob("importing-*")) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_format": "arrow"}, "data_format='hdf5'"),
        ({"observation_space": None}, "Minari 0.5 or later"),
        ({"action_space": '{"type": "Box", "shape": [2], "dtype": "float32"}'}, "discrete"),
        ({"observation_space": '{"type": "Dict", "subspaces": {}}'}, "Dict space"),
        ({"observation_space": '{"type": "Box", "dtype": "uint8", "shape": [84, 84, 84]}'}, "uint8 images"),
        ({"observation_space": '{"type": "Box", "dtype": "int64", "shape": [4]}'}, "float vectors"),
    ],
)
def test_datasets_of_other_kinds_are_refused_in_words(changes: dict[str, Any], words: str, tmp_path: Path):
    folder = unpack("cartpole", tmp_path)
    change_metadata(folder, **changes)
    with pytest.raises(UserError, match=words):
        read(folder)


def test_datasets_are_recognised_by_their_content(tmp_path: Path):
    assert find_importers(SourceFiles(unpack("frames", tmp_path / "one"))).experience is not None
    assert find_importers(SourceFiles(unpack("arrow", tmp_path / "arrow"))).experience is not None
    unpack("frames", tmp_path / "many" / "first")
    unpack("frames", tmp_path / "many" / "second")
    with pytest.raises(UserError, match="holds 2 datasets"):
        read(tmp_path / "many")
    (tmp_path / "one" / "data" / "main_data.hdf5").write_bytes(b"something else")
    with pytest.raises(UserError, match="nothing that can be imported"):
        find_importers(SourceFiles(tmp_path / "one"))
