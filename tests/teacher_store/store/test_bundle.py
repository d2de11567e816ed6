import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from teacher_store.importers.formats.upcycle_bundle import is_bundle, open_bundle
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.records.record import TeacherRecord
from teacher_store.store.bundle import RECORD, SUMS, export_bundle
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import make_log, make_training_state, make_weights, publish
from tests.helpers.teacher_bundles import rewrite
from upcycle.errors import CorruptDataError, UserError


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[TeacherStore, TeacherRecord]:
    """A teacher with everything, its parent, and its grandparent, which was removed."""
    path = tmp_path_factory.mktemp("family")
    store = TeacherStore(path / "store", bundled=None)
    make_training_state(path / "state")
    first = publish(store, make_weights(path, 1), name="first")
    second = publish(store, make_weights(path, 2), name="second", parents=(first.id, "lost-00000000"))
    publish(store, make_weights(path, 3), name="stranger")
    store.remove("first")
    log = make_log(path / "log")
    third = publish(store, make_weights(path), parents=(second.id,), training_state=path / "state", log=log)
    return store, third


@pytest.fixture(scope="module")
def bundle(family: tuple[TeacherStore, TeacherRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "pong.zip"
    export_bundle(family[0], "pong-dqn", path)
    return path


def read(path: Path, folder: Path) -> TeacherRecord:
    """All that an import reads."""
    opened = open_bundle(SourceFiles(path))
    folder.mkdir(exist_ok=True)
    opened.extract(folder / "teacher")
    store = TeacherStore(folder, bundled=None)
    store.verify(opened.record)
    return opened.record


def test_a_bundle_has_everything_and_can_be_checked_with_common_tools(bundle: Path, tmp_path: Path):
    zipfile.ZipFile(bundle).extractall(tmp_path)
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {line.split(":")[0] for line in checked.stdout.splitlines()} == names - {SUMS}
    assert {"LICENCE.txt", "weights.safetensors", "training_state.safetensors", RECORD} < names
    assert len([name for name in names if name.endswith("log.json")]) == 2
    assert "Apache-2.0" in (tmp_path / "LICENCE.txt").read_text()


def test_the_same_teacher_gives_the_same_bytes(
    family: tuple[TeacherStore, TeacherRecord], bundle: Path, tmp_path: Path
):
    store, record = family
    export_bundle(store, record.id, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    opened = open_bundle(SourceFiles(bundle))
    other = TeacherStore(tmp_path / "other", bundled=None)
    other.add(opened.record, opened.extract(tmp_path / "teacher"), opened.ancestors)
    export_bundle(other, record.id, tmp_path / "other.zip")
    assert (tmp_path / "other.zip").read_bytes() == bundle.read_bytes()


def test_an_unpacked_bundle_is_a_teacher_and_so_is_its_import(
    family: tuple[TeacherStore, TeacherRecord], bundle: Path, tmp_path: Path
):
    record = family[1]
    assert is_bundle(SourceFiles(bundle))
    shutil.unpack_archive(bundle, tmp_path / "unpacked" / "pong")
    unpacked = TeacherStore(tmp_path / "unpacked", bundled=None)
    unpacked.verify(unpacked.get("pong-dqn"))
    opened = open_bundle(SourceFiles(bundle))
    assert [ancestor.name for ancestor in opened.ancestors] == ["first", "second"]
    store = TeacherStore(tmp_path / "store", bundled=None)
    assert store.add(opened.record, opened.extract(tmp_path / "teacher"), opened.ancestors) == record
    assert store.list() == [record]
    store.verify(record)
    assert [known.name for known in store.known()] == ["first", "pong-dqn", "second"]


def test_a_large_log_needs_zip64_and_no_memory(
    family: tuple[TeacherStore, TeacherRecord], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)  # what takes 2 GiB else
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 4)
    store, record = family
    export_bundle(store, record.id, tmp_path / "large.zip")
    assert b"PK\6\6" in (tmp_path / "large.zip").read_bytes()
    assert read(tmp_path / "large.zip", tmp_path) == record.model_copy(update={"revision": 0})


def test_a_damaged_teacher_is_not_exported(tmp_path: Path):
    store = TeacherStore(tmp_path / "store", bundled=None)
    record = publish(store, make_weights(tmp_path))
    path = store.weights_path(record)
    path.unlink()
    path.write_bytes(b"x" * 20)
    with pytest.raises(CorruptDataError, match=r"weights\.safetensors: has changed"):
        export_bundle(store, "pong-dqn", tmp_path / "out.zip")
    with pytest.raises(UserError, match=r"--output.*make it first"):
        export_bundle(store, "pong-dqn", tmp_path / "nowhere" / "out.zip")
    assert [name for name in os.listdir(tmp_path) if "out" in name] == []


@pytest.mark.parametrize("mended", [False, True])
def test_no_byte_of_a_bundle_can_change(bundle: Path, tmp_path: Path, mended: bool):
    for name in zipfile.ZipFile(bundle).namelist():
        target = tmp_path / "changed.zip"

        def flip(data: bytes) -> bytes:
            return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]

        rewrite(bundle, target, {name: flip}, mend_sums=mended)
        with pytest.raises(CorruptDataError, match=r"changed\.zip"):
            read(target, tmp_path / f"{name.replace('/', '-')}")


def test_a_bundle_that_is_cut_anywhere_is_refused(bundle: Path, tmp_path: Path):
    data = bundle.read_bytes()
    for kept in [*range(0, len(data), 997), len(data) - 1, len(data) - 22]:
        (tmp_path / "cut.zip").write_bytes(data[:kept])
        with pytest.raises(CorruptDataError, match=r"cut\.zip"):
            open_bundle(SourceFiles(tmp_path / "cut.zip"))


def test_files_more_or_less_are_refused(bundle: Path, tmp_path: Path):
    target, names = tmp_path / "other.zip", zipfile.ZipFile(bundle).namelist()
    for name in [name for name in names if not name.startswith("ancestors/")]:
        rewrite(bundle, target, {name: None}, mend_sums=True)
        with pytest.raises(CorruptDataError, match=r"is missing|disagrees"):
            open_bundle(SourceFiles(target))
    for name in ("extra", "ancestors/extra.json", "experience/extra", "../escape", "/etc/passwd", "a/../../b", "dir/"):
        rewrite(bundle, target, {}, extra={name: b"{}"}, mend_sums=True)
        with pytest.raises(CorruptDataError, match=r"is left over|leads out|no file|extra\.json"):
            open_bundle(SourceFiles(target))
    with pytest.warns(UserWarning, match="Duplicate"):
        rewrite(bundle, target, {}, extra={RECORD: b"{}"})
    with pytest.raises(CorruptDataError, match="is there twice"):
        open_bundle(SourceFiles(target))


@pytest.mark.parametrize("kind", ["link", "bomb", "encrypted", "overlap", "many", "directory"])
def test_hostile_archives_are_refused(bundle: Path, tmp_path: Path, kind: str):
    target = tmp_path / "hostile.zip"
    if kind == "link":
        rewrite(bundle, target, {}, mode={"weights.safetensors": 0o120777}, mend_sums=True)
    elif kind == "bomb":
        rewrite(bundle, target, {"weights.safetensors": lambda _: bytes(1 << 24)}, compressed=True)
        assert target.stat().st_size < 1 << 20
    elif kind == "many":
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("bundle.json", b"{}")
            archive.writestr("x" * 60_000, b"")
        data = bytearray(target.read_bytes())
        struct.pack_into("<L", data, len(data) - 10, 1 << 30)
        target.write_bytes(data)
    else:
        rewrite(bundle, target, {})
        data = bytearray(target.read_bytes())
        first = data.index(b"PK\1\2")
        last = data.rindex(b"PK\1\2")
        if kind == "encrypted":
            data[first + 8] |= 1
        elif kind == "overlap":  # one file's bytes for all of another's
            struct.pack_into("<LL", data, last + 20, 1 << 28, 1 << 28)
        else:
            struct.pack_into("<HH", data, len(data) - 14, 65_534, 65_534)
        target.write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"hostile\.zip"):
        open_bundle(SourceFiles(target))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"file": "weights.safetensors"', '"file": "../../weights"', r"weights\.file"),
        ('shard-0/log.json"', '../log.json"', "experience"),
        ('"file": "weights.safetensors"', '"file": "teacher.json"', "two files alike|has .* bytes"),
        ('"revision": 0', '"revision": 3', "revision 3"),
        ('"mean_return": 5.0', '"mean_return": NaN', "mean_return|JSON"),
        ('"id": "pong-dqn', '"id": "other', "bundle.json"),
        ('"transitions": 84', '"transitions": 85', "its record says"),
        ('"optimizer": "adam"', '"optimizer": "rmsprop"', "training_state"),
    ],
)
def test_a_record_that_lies_is_refused(bundle: Path, tmp_path: Path, old: str, new: str, problem: str):
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    rewrite(bundle, tmp_path / "lying.zip", {RECORD: change}, mend_sums=True)
    with pytest.raises(CorruptDataError, match=problem):
        read(tmp_path / "lying.zip", tmp_path)


def test_ancestors_that_are_none_or_descend_from_themselves_are_refused(bundle: Path, tmp_path: Path):
    names = zipfile.ZipFile(bundle).namelist()
    first, second = sorted(name for name in names if name.startswith("ancestors/"))

    def without_parents(data: bytes) -> bytes:
        start = data.index(b'"parents": [')
        return data[:start] + b'"parents": []' + data[data.index(b"]", start) + 1 :]

    rewrite(bundle, tmp_path / "a.zip", {second: without_parents}, mend_sums=True)
    with pytest.raises(CorruptDataError, match="does not descend from first"):
        open_bundle(SourceFiles(tmp_path / "a.zip"))

    parent = f'"parents": ["{Path(second).stem}"]'.encode()
    rewrite(bundle, tmp_path / "b.zip", {first: lambda data: data.replace(b'"parents": []', parent)}, mend_sums=True)
    with pytest.raises(CorruptDataError, match="descends from itself"):
        open_bundle(SourceFiles(tmp_path / "b.zip"))
