"""Files without a name: what was written is read back, and space is given up in time."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.storage import spill_files
from replay_service.storage.spill_files import Place, SpillFiles
from upcycle.errors import CorruptDataError, UserError


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=60), held=st.integers(1, 6))
def test_a_ring_reads_back_and_holds_no_more_files_than_it_needs(
    sizes: list[int], held: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files, ring = SpillFiles(tmp_path_factory.mktemp("spill"), file_bytes=100), list[tuple[Place, bytes]]()
    for number, size in enumerate(sizes):
        data = bytes([number]) * size
        ring.append((files.append(data), data))
        if len(ring) > held:
            files.release(ring.pop(0)[0])
        assert [files.read(place) for place, _ in ring] == [data for _, data in ring]
        assert files.num_files <= len({place.file for place, _ in ring})


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    files = SpillFiles(tmp_path / "cold")
    files.append(b"frames")
    assert list((tmp_path / "cold").iterdir()) == []


def test_a_full_disk_is_explained_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SpillFiles(tmp_path)
    first = files.append(b"first")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spill_files, "write_all", full)
        with pytest.raises(UserError, match="is full"):
            files.append(b"second")
    assert files.read(files.append(b"third")) == b"third"
    assert files.read(first) == b"first"


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    files = SpillFiles(tmp_path)
    place = files.append(b"frames")
    os.ftruncate(files._files[0][0], 3)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(CorruptDataError, match="lost its end"):
        files.read(place)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    files = SpillFiles(tmp_path)
    place = files.append(b"frames")
    os.pwrite(files._files[0][0], b"F", 0)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(CorruptDataError, match="have changed"):
        files.read(place)
