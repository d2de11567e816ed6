"""Replay logs that Dopamine's own classes wrote, against what was added to them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_store.importers.formats.dopamine_replay import IMPORTER
from teacher_store.importers.imported import ImportedExperience, Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import find_importers
from tests.helpers.imported_transitions import Transition, assert_same_transitions, imported_transitions
from tests.helpers.paths import FIXTURES
from tests.helpers.replay_files import npy_bytes, write_replay
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array

REPLAYS = FIXTURES / "dopamine_replay"
NAMES = sorted(path.name for path in REPLAYS.iterdir())
STACK = 4


def read(folder: Path, checkpoint: int | None = None) -> ImportedExperience:
    assert IMPORTER.read_experience is not None
    experience = IMPORTER.read_experience(SourceFiles(folder), Request(checkpoint=checkpoint))
    assert experience is not None
    return experience


def expected(name: str, *, num_added: int | None = None) -> list[Transition]:
    """What can be known of each transition that was added, from the additions and the capacity alone."""
    with np.load(REPLAYS / name / "added.npz") as file:
        added: dict[str, Array] = {column: file[column][:num_added] for column in file.files if column != "capacity"}
        capacity = int(file["capacity"])
    rows: list[tuple[int, int]] = []  # (number of the addition, or -1 for padding; of its episode)
    episode, is_start = 0, True
    for number, ends in enumerate(added["episode_end"]):
        rows += [(-1, episode)] * (STACK - 1 if is_start else 0) + [(number, episode)]
        is_start, episode = bool(ends), episode + int(ends)
    kept = rows[-capacity:]
    found = list[Transition]()
    for place, (number, episode) in enumerate(kept):
        knows_start = (-1, episode) in kept
        if number < 0 or (not knows_start and place < STACK - 1):
            continue
        own = [i for i, of in kept[: place + 1] if of == episode and i >= 0]
        stack = [added["frame"][i] for i in own[-STACK:]]
        stack = [np.zeros_like(stack[0])] * (STACK - len(stack)) + stack
        terminal, ends = bool(added["terminal"][number]), bool(added["episode_end"][number])
        if not terminal and (ends or place == len(kept) - 1):
            continue  # what came after it was never stored
        following = None if terminal else np.stack([*stack[1:], added["frame"][number + 1]])
        found.append(
            Transition(np.stack(stack), int(added["action"][number]), float(added["reward"][number]), following)
        )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_learner_gets_the_transitions_that_were_added(name: str, tmp_path: Path) -> None:
    experience = read(REPLAYS / name)
    wanted = expected(name)
    assert len(wanted) >= 20
    assert_same_transitions(imported_transitions(experience, tmp_path / "log"), wanted)


def test_an_older_checkpoint_of_the_same_folder(tmp_path: Path) -> None:
    experience = read(REPLAYS / "wrapped", checkpoint=5)
    assert experience.facts["checkpoint"] == "5"
    wanted = expected("wrapped", num_added=sum((11, 4, 17, 9, 26, 6)))
    assert_same_transitions(imported_transitions(experience, tmp_path / "log"), wanted)
    with pytest.raises(UserError, match="there are 5, 7"):
        read(REPLAYS / "wrapped", checkpoint=6)


def test_the_format_is_recognised_and_described() -> None:
    source = SourceFiles(REPLAYS / "wrapped")
    assert find_importers(source).experience is IMPORTER
    assert not IMPORTER.recognises(SourceFiles(REPLAYS / "wrapped" / "added.npz"))
    experience = read(REPLAYS / "wrapped")
    assert (experience.frame_shape, experience.frame_dtype, experience.num_actions) == ((7, 6), "uint8", None)
    assert (experience.protocol["sticky_actions"], experience.protocol["stack_fill"]) == (0.25, "zeros")
    assert (experience.facts["capacity"], experience.facts["rewards"]) == ("50", "clipped to [-1, 1]")
    assert read(REPLAYS / "before_2021").facts["time limits"] == "not told from terminal states"
    assert experience.fingerprint != read(REPLAYS / "wrapped", checkpoint=5).fingerprint


@pytest.mark.parametrize("name", ["wrapped", "time_limits"])
def test_rows_that_are_there_already_are_left_out(name: str) -> None:
    experience = read(REPLAYS / name)
    whole = [block for block in experience.rows(0)]
    frames, actions = np.concatenate([b.frame for b in whole]), np.concatenate([b.action for b in whole])
    assert len(actions) <= experience.num_rows
    for skip in (1, 13, len(actions) - 1, len(actions), len(actions) + 5):
        rest = [block for block in experience.rows(skip)]
        assert sum(block.num_rows for block in rest) == max(len(actions) - skip, 0)
        if rest:
            np.testing.assert_array_equal(np.concatenate([b.frame for b in rest]), frames[skip:])
            np.testing.assert_array_equal(np.concatenate([b.action for b in rest]), actions[skip:])


def read_all(folder: Path) -> int:
    return sum(block.num_rows for block in read(folder).rows(0))


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 + 1",)


FRAMES = np.ones((12, 5, 4), np.uint8)
ACTIONS = np.zeros(12, np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": FRAMES[:11]}, "uint8 frames"),
        ({"observation": FRAMES.astype(np.float32)}, "uint8 frames"),
        ({"observation": FRAMES[:, 0]}, "uint8 frames"),
        ({"observation": np.ones((12, 1, 1025), np.uint8)}, "pixels"),
        ({"observation": np.asfortranarray(FRAMES)}, "Fortran"),
        ({"observation": npy_bytes(FRAMES)[:-1]}, "cut off"),
        ({"observation": npy_bytes(FRAMES) + b"x"}, "more bytes"),
        ({"observation": b"\x93NUMPY\x01\x00\xff\xff" + bytes(70_000)}, "header of 65,535 bytes"),
        ({"observation": b"GIF89a" + bytes(100)}, "no NumPy array"),
        ({"action": np.array([0, -1] * 6, np.int32)}, "outside"),
        ({"action": ACTIONS + 5000}, "outside"),
        ({"action": ACTIONS.astype(np.float32)}, "actions of dtype"),
        ({"action": ACTIONS[:0]}, "of 1 to 16,000,000 rows"),
        ({"action": npy_bytes(ACTIONS).replace(b"(12,), }  ", b"(99999999999,), }")[:128]}, "of 1 to 16,000,000 rows"),
        ({"action": np.array([print] * 12, object).astype("U3")}, "another kind"),
        ({"reward": np.full(12, np.nan, np.float32)}, "not finite"),
        ({"reward": np.full(12, 1e300)}, "not finite"),
        ({"reward": np.ones(11, np.float32)}, "as its actions"),
        ({"terminal": np.full(12, 2, np.uint8)}, "neither 0 nor 1"),
        ({"add_count": np.arange(3)}, "no number of rows"),
        ({"add_count": np.array(-4)}, "-4 rows"),
        ({"episode_end_indices": pickle.dumps({12})}, "12 is no row"),
        ({"episode_end_indices": pickle.dumps({"x"})}, "no row"),
        ({"episode_end_indices": pickle.dumps([1])}, "where a set belongs"),
        ({"episode_end_indices": pickle.dumps(Hostile())}, "eval"),
    ],
)
def test_what_dopamine_does_not_write_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match=message) as caught:
        read_all(write_replay(tmp_path / "replay", **changes))
    assert "_ckpt.1.gz" in str(caught.value)


def test_buffers_without_rows_or_without_files(tmp_path: Path) -> None:
    assert read_all(write_replay(tmp_path / "good")) == 10  # nine steps and the row after them
    with pytest.raises(UserError, match="empty buffer"):
        read(write_replay(tmp_path / "empty", add_count=np.array(0)))
    assert not IMPORTER.recognises(SourceFiles(write_replay(tmp_path / "partly", terminal=None)))
    newest = write_replay(write_replay(tmp_path / "two"), checkpoint=2, reward=None)
    assert read(newest).facts["checkpoint"] == "1"  # the newest that is complete
    write_replay(tmp_path / "many" / "a")
    write_replay(tmp_path / "many" / "b")
    with pytest.raises(UserError, match="several buffers of checkpoint 1"):
        read(tmp_path / "many")


def test_damaged_gzip_is_refused_whatever_its_place(tmp_path: Path) -> None:
    folder = write_replay(tmp_path / "replay")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        if path.name.startswith("invalid_range"):
            continue  # nobody reads it
        for spoiled in (whole[: len(whole) // 2], whole[:-8] + bytes(8), whole[:-1]):
            path.write_bytes(spoiled)
            with pytest.raises(CorruptDataError, match=r"gzip|cut off"):
                read_all(folder)
        path.write_bytes(whole)
    linked = next(path for path in folder.iterdir() if "reward" in path.name)
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    assert not IMPORTER.recognises(SourceFiles(folder))


def test_a_file_that_states_more_than_it_holds_costs_no_memory(tmp_path: Path) -> None:
    shape = b"(99999999999, 5, 4), }"
    data = npy_bytes(FRAMES).replace(b"(12, 5, 4), }" + b" " * (len(shape) - 13), shape)
    with pytest.raises(CorruptDataError, match="uint8 frames"):
        read_all(write_replay(tmp_path / "replay", observation=data))
    bomb = npy_bytes(FRAMES) + bytes(50_000_000)
    with pytest.raises(CorruptDataError, match="more bytes"):
        read_all(write_replay(tmp_path / "bomb", observation=bomb))


def test_the_buffers_of_later_versions_are_refused_by_name(tmp_path: Path) -> None:
    later = tmp_path / "199" / "replay" / "checkpoint.msgpack"
    later.parent.mkdir(parents=True)
    later.write_bytes(b"\x84\xa9add_count\xcd\x01\x00\xa6memory")
    source = SourceFiles(tmp_path)
    assert find_importers(source).experience is IMPORTER
    with pytest.raises(UserError, match=r"Dopamine 4\.1 or later"):
        read(tmp_path)
