from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.runs.snapshots import SnapshotFolder, SnapshotRef, read_snapshot, write_snapshot

TENSORS: dict[str, Array] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(2.5),
    "count": np.array([1, 2], np.int64),
}


def unguarded(*_: object) -> None:
    """In place of what looks for values that are not finite: as it was once."""


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    sha256 = write_snapshot(tmp_path / "w.safetensors", TENSORS, {"policy_version": "3"})
    snapshot = read_snapshot(tmp_path / "w.safetensors", sha256=sha256)
    assert snapshot.metadata == {"policy_version": "3"}
    assert set(snapshot.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(snapshot.tensors[name], tensor)
        assert snapshot.tensors[name].dtype == tensor.dtype
        assert snapshot.tensors[name].flags.writeable


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_or_missing_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("snapshot") / "w.safetensors"
    sha256 = write_snapshot(path, TENSORS, {"a": "b"})
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match="SHA-256"):
        read_snapshot(path, sha256=sha256)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_other_files_are_refused_without_a_checksum_too(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(CorruptDataError, match="not a safetensors file"):
        read_snapshot(tmp_path / "w")


def test_metadata_are_read_without_the_weights(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    ref = folder.publish(1, TENSORS, {"policy_version": "1", "phase": "online"})
    assert folder.metadata(ref) == {"policy_version": "1", "phase": "online"} == folder.load(ref).metadata
    for content in (b"", b"not safetensors at all", b"\xff" * 64, b"\x02" + bytes(7) + b"[]"):
        (tmp_path / ref.path).write_bytes(content)
        with pytest.raises(CorruptDataError, match="not a safetensors file"):
            folder.metadata(ref)
    (tmp_path / ref.path).unlink()
    with pytest.raises(CorruptDataError, match="no such weight file"):
        folder.metadata(ref)


def test_the_latest_version_is_announced_after_its_file(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    assert folder.latest() is None
    first = folder.publish(1, TENSORS, {"policy_version": "1"})
    second = folder.publish(2, {"weight": np.zeros(2)}, {})
    assert folder.latest() == second
    assert (first.version, second.version) == (1, 2)
    np.testing.assert_array_equal(folder.load(first).tensors["weight"], TENSORS["weight"])
    assert folder.versions() == [1, 2]


def test_a_torn_weight_file_is_not_loaded(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    ref = folder.publish(1, TENSORS, {})
    path = tmp_path / ref.path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError):
        folder.load(ref)


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"version": 1, "path": "../../etc/passwd", "sha256": ""}'])
def test_a_damaged_note_is_an_error_and_never_leads_out_of_the_folder(tmp_path: Path, note: str) -> None:
    (tmp_path / "latest.json").write_text(note)
    with pytest.raises(CorruptDataError, match=r"latest\.json"):
        SnapshotFolder(tmp_path).latest()


def test_prune_keeps_the_newest_and_the_latest(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    for version in range(1, 8):
        folder.publish(version, {"weight": np.full(2, version)}, {})
    assert folder.prune(2) == [1, 2, 3, 4, 5]
    assert folder.versions() == [6, 7]
    assert folder.prune(0) == [6]
    latest = folder.latest()
    assert latest is not None
    assert folder.load(latest).tensors["weight"][0] == 7
    with pytest.raises(CorruptDataError, match="no such weight file"):
        folder.load(SnapshotRef(1, folder.name_of(1), ""))


def test_the_best_version_outlives_pruning(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    assert folder.best() is None
    for version in range(1, 6):
        ref = folder.publish(version, {"w": np.full(2, version, np.float32)}, {"policy_version": str(version)})
        if version == 2:
            folder.keep_best(folder.load(ref))
    folder.prune(keep=1)
    best = folder.best()
    assert best is not None
    assert read_snapshot(best).metadata["policy_version"] == "2"
    assert folder.versions() == [5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_is_written_or_read(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"steps": np.arange(3), "w": np.array([[1.0, value]], np.float32)}
    with pytest.raises(CorruptDataError, match=r"policy-0000000001\.safetensors: w holds values that are not finite"):
        SnapshotFolder(tmp_path).publish(1, tensors, {})
    assert SnapshotFolder(tmp_path).latest() is None
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("upcycle.runs.snapshots.check_finite", unguarded)
        write_snapshot(tmp_path / "w", tensors, {})
    with pytest.raises(CorruptDataError, match="w holds values that are not finite"):
        read_snapshot(tmp_path / "w")
