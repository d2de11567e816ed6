"""Datasets of Minari that are damaged or made to do harm: refused in words, whatever libhdf5 does."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.teachers.importing import ImportOptions, import_teacher
from teacher_store.importers.formats.minari import IMPORTER
from teacher_store.importers.readers import hdf5_process
from teacher_store.importers.readers.hdf5_process import Hdf5Process
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.store.store import TeacherStore
from tests.helpers.fuzz_buffers import attempt, spoil
from tests.helpers.minari_files import DATA, change_metadata, changed, h5py, read, replace, unpack
from upcycle.errors import CorruptDataError, UserError

pytestmark = pytest.mark.slow


def refused(folder: Path, words: str) -> None:
    """Makes sure that the import of a dataset fails in these words, and leaves no teacher."""
    store = TeacherStore(folder.parent / "teachers", bundled=None)
    with pytest.raises(CorruptDataError, match=words) as caught:
        import_teacher(store, ImportOptions(folder, "spoilt", task="CartPole-v1", episodes=0))
    assert DATA in str(caught.value)
    assert store.list() == []


def spoil_reward(file: Any) -> None:
    file["episode_1/rewards"][3] = np.nan


def spoil_observation(file: Any) -> None:
    file["episode_1/observations"][3, 2] = np.inf


def spoil_action(file: Any) -> None:
    file["episode_1/actions"][0] = 2


def go_on_after_the_end(file: Any) -> None:
    file["episode_1/terminations"][2] = True


def leave_out_final(file: Any) -> None:
    replace(file, "episode_1/observations", file["episode_1/observations"][:-1])


def widen(file: Any) -> None:
    replace(file, "episode_2/observations", np.zeros((len(file["episode_2/rewards"]) + 1, 5), np.float32))


def flatten_rewards(file: Any) -> None:
    replace(file, "episode_2/rewards", np.float64(1))


def put_words(file: Any) -> None:
    replace(file, "episode_0/actions", np.array([b"left"] * len(file["episode_0/rewards"])))


def lose_an_episode(file: Any) -> None:
    del file["episode_1"]


def lose_a_column(file: Any) -> None:
    del file["episode_1/truncations"]


def link_out(file: Any) -> None:
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = h5py.ExternalLink("/etc/hostname", "/rewards")


def link_softly(file: Any) -> None:
    del file["episode_1"]
    file["episode_1"] = h5py.SoftLink("/episode_0")


def lie_outside(file: Any) -> None:
    count = len(file["episode_1/rewards"])
    del file["episode_1/rewards"]
    file.create_dataset("episode_1/rewards", (count,), "f8", external=[("/etc/hostname", 0, 8 * count)])


def be_virtual(file: Any) -> None:
    count = len(file["episode_1/rewards"])
    layout = h5py.VirtualLayout((count,), "f8")
    layout[:] = h5py.VirtualSource("/etc/hostname", "rewards", (count,))
    del file["episode_1/rewards"]
    file.create_virtual_dataset("episode_1/rewards", layout)


def filter_otherwise(file: Any) -> None:
    replace(file, "episode_0/rewards", file["episode_0/rewards"][:], compression="lzf", chunks=True)


def be_a_bomb(file: Any) -> None:
    """Three columns that say they are of ten million steps, of which nothing is there."""
    steps = 10_000_000
    for name, dtype in (("rewards", "f8"), ("actions", "i8"), ("terminations", "?"), ("truncations", "?")):
        del file[f"episode_0/{name}"]
        file.create_dataset(f"episode_0/{name}", (steps,), dtype, chunks=(1000,), compression="gzip")
    del file["episode_0/observations"]
    file.create_dataset("episode_0/observations", (steps + 1, 4), "f4", chunks=(1000, 4), compression="gzip")


def be_one_large_chunk(file: Any) -> None:
    count = len(file["episode_0/rewards"])
    del file["episode_0/rewards"]
    file.create_dataset("episode_0/rewards", (count,), "f8", chunks=(1 << 23,), maxshape=(None,), compression="gzip")


SPOILT: dict[Callable[[Any], None], str] = {
    spoil_reward: "reward that is not finite",
    spoil_observation: "observation that is not finite",
    spoil_action: "none of 2",
    go_on_after_the_end: "goes on after its end",
    leave_out_final: "belong",
    widen: "belong",
    flatten_rewards: "0 steps",
    put_words: "beside rewards",
    lose_an_episode: "is not there",
    lose_a_column: "is not there",
    link_out: "link; refused",
    link_softly: "link; refused",
    lie_outside: "other files; refused",
    be_virtual: "other files; refused",
    filter_otherwise: "filters",
    be_a_bomb: "bomb",
    be_one_large_chunk: "chunks of",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_what_is_damaged_or_hostile_is_refused(spoil: Callable[[Any], None], tmp_path: Path):
    folder = unpack("cartpole", tmp_path / "dataset")
    with changed(folder) as file:
        spoil(file)
    refused(folder, SPOILT[spoil])


def test_a_file_that_is_cut_off_and_one_of_other_counts_are_refused(tmp_path: Path):
    folder = unpack("cartpole", tmp_path / "dataset")
    path = folder / DATA
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    refused(folder, "OSError")
    path.write_bytes(whole)
    change_metadata(folder, total_steps=45)
    refused(folder, "metadata counts 3 and 45")


def test_stacks_that_are_none_and_stacks_kept_with_loss_are_refused(tmp_path: Path):
    folder = unpack("stacks-last", tmp_path / "dataset")
    with changed(folder) as file:
        file["episode_1/observations"][4, 10, 10, 0] += 1
    with pytest.raises(CorruptDataError, match="episode 1: its observations are no stacks"):
        list(read(folder).rows(0))
    with changed(folder) as file:
        file["episode_2/observations"][0, 10, 10, 0] += 1
    with pytest.raises(CorruptDataError, match="episode 2: its first stack"):
        list(read(folder).rows(17))
    with changed(folder) as file:
        file["episode_0/observations"][0, 10, 10, 0] += 1
    with pytest.raises(CorruptDataError, match=r"neither a repeated frame nor zeros"):
        read(folder)
    change_metadata(folder, jpeg_encoding=True)
    with pytest.raises(UserError, match="cannot be taken apart"):
        read(folder, accept_lossy=True)


def test_pictures_of_another_size_or_that_are_none_are_refused(tmp_path: Path):
    folder = unpack("frames-jpeg", tmp_path / "dataset")
    with changed(folder) as file:
        file["episode_0/observations"][0] = np.frombuffer(b"\xff\xd8 no picture", np.uint8)
    with pytest.raises(CorruptDataError, match="UnidentifiedImageError"):
        list(read(folder, accept_lossy=True).rows(0))
    space = '{"type": "Box", "dtype": "uint8", "shape": [96, 96], "low": 0, "high": 255}'
    change_metadata(folder, observation_space=space)
    with pytest.raises(CorruptDataError, match="picture of 84x84"):
        list(read(folder, accept_lossy=True).rows(10))


def test_links_in_the_folder_are_not_followed(tmp_path: Path):
    folder = unpack("cartpole", tmp_path / "dataset")
    (folder / DATA).rename(tmp_path / "elsewhere.hdf5")
    (folder / DATA).symlink_to(tmp_path / "elsewhere.hdf5")
    assert not IMPORTER.recognises(SourceFiles(folder))


def test_a_reader_that_says_nothing_is_ended_and_one_that_takes_memory_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = SourceFiles(unpack("cartpole", tmp_path / "dataset"))
    layout = {"jpeg": False, "shape": (4,), "dtype": "float32", "first": 0, "block_rows": 64}
    with (
        Hdf5Process(source, DATA, layout, silent_seconds=0.0) as process,
        pytest.raises(CorruptDataError, match="came to nothing in 0 s"),
    ):
        process.read_line()
    monkeypatch.setattr(hdf5_process, "_MEMORY_BYTES", 1 << 20)
    with Hdf5Process(source, DATA, layout) as process, pytest.raises(CorruptDataError, match=r"Memory|ended"):
        process.read_line()


@pytest.mark.parametrize("name", ["cartpole", "frames-jpeg"])
def test_nothing_but_a_refusal_comes_of_mutations(name: str, tmp_path: Path):
    folder, rng = unpack(name, tmp_path), random.Random(0)
    genuine, outcomes = (folder / DATA).read_bytes(), set[str]()
    for _ in range(4):
        spoil(folder / DATA, rng)
        outcomes.add(attempt(IMPORTER, folder))
        (folder / DATA).write_bytes(genuine)
    assert outcomes <= {"read", "CorruptDataError", "not recognised", "libhdf5 ended by a signal"}
