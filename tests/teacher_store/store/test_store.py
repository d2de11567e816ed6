import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from teacher_store.records.record import Provenance, TeacherRecord
from teacher_store.store.storage import object_name
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import make_log, make_training_state, make_weights, old_folder, publish
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import sha256_of
from upcycle.runs.snapshots import write_snapshot


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def test_a_published_teacher_is_found_whole_by_another_process(store: TeacherStore, tmp_path: Path) -> None:
    weights = make_weights(tmp_path)
    provenance = Provenance(
        run_id="run-1", config="seed = 1\n", learner_steps=10, env_frames=40, versions={"torch": "2"}
    )
    record = publish(store, weights, log=make_log(tmp_path / "run"), parents=("old-12345678",), provenance=provenance)
    again = TeacherStore(store.root, bundled=None).get(record.id)
    assert again == record
    assert again.id == f"pong-dqn-{sha256_of(weights)[:8]}"
    assert again.weights is not None
    assert again.weights.sha256 == sha256_of(weights)
    assert again.parents == ("old-12345678",)
    assert again.provenance.run_id == "run-1"
    assert again.provenance.created is not None
    assert again.experience is not None
    assert (again.experience.transitions, again.experience.chunks) == (84, 12)
    assert store.open_log(again).num_transitions == 84
    store.verify(again)


def test_publishing_moves_no_bytes_of_the_log(store: TeacherStore, tmp_path: Path) -> None:
    log = make_log(tmp_path / "run")
    record = publish(store, make_weights(tmp_path), log=log)
    segments = list(log.rglob("*.log"))
    assert len(segments) >= 4
    for segment in segments:
        assert segment.samefile(store.log_directory(record) / segment.relative_to(log))


def test_names_ids_and_unique_prefixes_find_a_teacher(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    for name in (record.id, "pong-dqn", "pong-d", record.id[:-3]):
        assert store.get(name) == record
    publish(store, make_weights(tmp_path, 1))
    assert store.get(record.id) == record
    with pytest.raises(UserError, match=f"names several; choose one of .*{record.id}"):
        store.get("pong-dqn")
    with pytest.raises(UserError, match="did you mean pong-dqn"):
        store.get("pong-dnq")
    with pytest.raises(UserError, match="there is no such teacher; known: pong-dqn-"):
        store.get("")


def test_the_same_weights_under_the_same_name_are_refused(store: TeacherStore, tmp_path: Path) -> None:
    publish(store, make_weights(tmp_path))
    with pytest.raises(UserError, match="is in the store already"):
        publish(store, make_weights(tmp_path))
    publish(store, make_weights(tmp_path), name="other")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../escape", "x" * 60, "ä"])
def test_a_name_that_is_no_file_name_is_refused(store: TeacherStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a teacher"):
        publish(store, make_weights(tmp_path), name=name)


def test_a_damaged_log_is_not_published_and_leaves_nothing_behind(store: TeacherStore, tmp_path: Path) -> None:
    log = make_log(tmp_path / "run")
    segment = sorted(log.rglob("*.log"))[0]
    os.truncate(segment, segment.stat().st_size - 1)
    with pytest.raises(CorruptDataError, match=segment.name):
        publish(store, make_weights(tmp_path), log=log)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    assert store.list() == []


def test_changed_lost_and_added_files_are_noticed_when_read(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path), log=make_log(tmp_path / "run"))
    directory = store.log_directory(record)
    (directory / "shard-0" / "extra").touch()
    with pytest.raises(CorruptDataError, match="extra: is left over"):
        store.open_log(record)
    (directory / "shard-0" / "extra").unlink()
    segment = sorted(directory.rglob("*.log"))[1]
    content, stored = segment.read_bytes(), store.root / object_name(sha256_of(segment))
    segment.unlink()
    store.open_log(record)  # it is linked again
    segment.unlink()
    stored.unlink()
    with pytest.raises(CorruptDataError, match=f"{stored.name}: is missing"):
        store.open_log(record)
    segment.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorruptDataError, match=f"{segment.name}: has changed"):
        store.open_log(record)
    weights = store.weights_path(record)
    weights.unlink()
    weights.write_bytes(b"others")
    with pytest.raises(CorruptDataError, match=r"weights\.safetensors: has changed"):
        store.verify(record)


def test_experience_can_be_added_and_replaced(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    with pytest.raises(UserError, match=r"has left no experience; run `upcycle teacher collect pong-dqn"):
        store.log_directory(record)
    first = store.add_experience(record.id, make_log(tmp_path / "first"))
    assert store.get(record.id) == first
    assert store.open_log(first).num_transitions == 84
    second = store.add_experience("pong-dqn", make_log(tmp_path / "second", chunks=2))
    assert store.open_log(second).num_transitions == 28
    same = store.add_experience("pong-dqn", tmp_path / "second")
    assert store.open_log(same).num_transitions == 28
    assert same.experience == second.experience


def test_a_bundled_teacher_is_read_only_and_gets_a_record_of_the_users_own(store: TeacherStore, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    record = old_folder(store, publish(store, make_weights(tmp_path)), bundle / "pong-dqn")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}

    store = TeacherStore(tmp_path / "own", bundled=bundle)
    assert store.list() == [record]
    assert store.weights_path(record) == bundle / "pong-dqn" / "weights.safetensors"
    store.add_experience(record.id, make_log(tmp_path / "log"))
    store.replace(store.get(record.id).model_copy(update={"random_score": -21.0}))
    mine = TeacherStore(tmp_path / "own", bundled=bundle).get("pong-dqn")
    assert mine.experience is not None
    assert mine.random_score == -21.0
    assert store.open_log(mine).num_transitions == 84
    assert len(store.list()) == 1
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    with pytest.raises(UserError, match="ships with Upcycle"):
        store.remove("pong-dqn")


@pytest.mark.parametrize("place", ["bundled", "own"])
def test_a_teacher_in_an_old_folder_loses_nothing_by_a_change(store: TeacherStore, tmp_path: Path, place: str) -> None:
    make_training_state(tmp_path / "state")
    log = make_log(tmp_path / "log")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state", log=log)
    old = old_folder(store, record, tmp_path / place / "pong-dqn")
    for name, change in (("scored", True), ("played", False)):
        own = TeacherStore(tmp_path / (name if place == "bundled" else place), bundled=tmp_path / "bundled")
        assert own.open_log(own.get("pong-dqn")).num_transitions == 84
        if change:
            own.replace(old.model_copy(update={"random_score": -21.0}))
        else:
            own.add_experience(record.id, make_log(tmp_path / "other", chunks=2))
        shutil.rmtree(tmp_path / place / "pong-dqn")
        again = TeacherStore(own.root, bundled=None)
        own.verify(again.get(record.id))
        assert again.training_state(again.get(record.id)).learner_steps == 7
        assert again.open_log(again.get(record.id)).num_transitions == (84 if change else 28)
        old_folder(store, record, tmp_path / place / "pong-dqn")


def test_the_store_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))
    assert TeacherStore.default().root == tmp_path / "mine"
    monkeypatch.delenv("UPCYCLE_TEACHERS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert TeacherStore.default().root == tmp_path / "data" / "upcycle" / "teachers"


def test_an_unreadable_record_is_named(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    path = store.root / "teachers" / record.id / "00000001.json"
    content = path.read_text()
    path.write_text(content.replace('"num_actions": 6', '"num_actions": 0'))
    with pytest.raises(CorruptDataError, match=r"00000001\.json: num_actions"):
        store.get(record.id)
    path.write_text(content.replace('"num_actions": 6', '"num_actions": 7'))
    with pytest.raises(CorruptDataError, match=r"00000001\.json: fails its checksum"):
        store.list()
    for hostile in ("", "[]", "{}", '{"sha256": 1, "listed": true, "record": []}', "[" * 100_000):
        path.write_text(hostile)
        with pytest.raises(CorruptDataError, match=r"00000001\.json"):
            store.list()
    path.unlink()
    path.with_name("00000002.json").write_text(content)
    with pytest.raises(CorruptDataError, match=r"00000002\.json: is teachers/.*/00000001\.json"):
        store.list()


@pytest.mark.parametrize("file", ["../weights", "/etc/passwd", ".hidden", "a/b"])
def test_a_record_cannot_point_out_of_its_folder(store: TeacherStore, tmp_path: Path, file: str) -> None:
    record = publish(store, make_weights(tmp_path))
    values = record.model_dump()
    values["weights"]["file"] = file
    with pytest.raises(ValidationError, match=r"weights\.file"):
        TeacherRecord.model_validate(values)


def test_the_training_state_goes_along_and_is_verified(store: TeacherStore, tmp_path: Path) -> None:
    arrays = make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    assert record.training_state is not None
    assert (record.training_state.optimizer, record.training_state.learner_steps) == ("adam", 7)
    assert record.training_state.bytes == (tmp_path / "state").stat().st_size
    store.verify(record)
    read = store.training_state(store.get(record.id))
    assert (read.kind, read.learner_steps) == ("adam", 7)
    np.testing.assert_equal(
        (read.online, read.target, read.optimizer), (arrays.online, arrays.target, arrays.optimizer)
    )
    path = store.folder(record) / record.training_state.file
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(CorruptDataError, match=r"training_state\.safetensors: SHA-256"):
        store.training_state(record)
    with pytest.raises(CorruptDataError, match=r"training_state\.safetensors: SHA-256"):
        store.verify(record)


def test_a_teacher_of_before_has_none_and_says_so(store: TeacherStore, tmp_path: Path) -> None:
    record = old_folder(store, publish(store, make_weights(tmp_path)), tmp_path / "before" / "pong-dqn")
    store, path = TeacherStore(tmp_path / "before", bundled=None), tmp_path / "before" / "pong-dqn" / "teacher.json"
    for line in (' "training_state": null,\n', ' "revision": 0,\n'):
        assert line in path.read_text()
        path.write_text(path.read_text().replace(line, ""))
    with pytest.raises(UserError, match=r"without its training state; set teacher\.optimizer=fresh"):
        store.training_state(store.get(record.id))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"w": np.zeros(2)}, {"optimizer": "adam", "learner_steps": "1"}, "'w' is of no part"),
        ({"online/w": np.zeros(2)}, {"optimizer": "sgd", "learner_steps": "1"}, "names no optimizer"),
        ({"online/w": np.zeros(2)}, {"optimizer": "adam"}, "no learner steps"),
    ],
)
def test_a_file_that_is_no_training_state_is_not_published(
    store: TeacherStore, tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], message: str
) -> None:
    write_snapshot(tmp_path / "state", tensors, metadata)
    with pytest.raises(CorruptDataError, match=message):
        publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    assert not store.root.exists()


def test_a_record_of_before_is_read_and_passed_on_without_its_runs_password(store: TeacherStore, tmp_path: Path):
    config = '[cluster]\nredis_url = "redis://127.0.0.1/0"\n'
    record = publish(store, make_weights(tmp_path), provenance=Provenance(run_id="run-1", config=config))
    data = record.to_bytes().replace(b"redis://127", b"redis://:hunter2@127")
    assert b"hunter2" in data
    assert TeacherRecord.from_bytes(data, where="old") == record


@pytest.mark.parametrize("url", ["s3://AKIA:hunter2@bucket/teachers", "abfs://box@host/teachers?sig=hunter2"])
def test_a_store_whose_url_holds_a_secret_is_refused_without_showing_it(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPCYCLE_TEACHERS", url)
    with pytest.raises(UserError, match="UPCYCLE_TEACHERS") as refused:
        TeacherStore.default()
    assert "hunter2" not in str(refused.value)
