import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from teacher_store.records.record import Function, TeacherRecord
from teacher_store.store.publishing import NewTeacher, hashes_of
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import ENV, SCORE, make_log, make_training_state, make_weights, publish
from tests.helpers.writers import publish_into_folder
from upcycle.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def test_processes_that_write_at_once_lose_nothing(store: TeacherStore, tmp_path: Path):
    make_log(tmp_path / "log")
    shared = publish(store, make_weights(tmp_path), name="shared")
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        done = [name for names in pool.map(publish_into_folder, [tmp_path] * 3, range(3)) for name in names]
    assert len(done) == len(set(done)) == 3 * 3 + 1
    assert sorted([*done, shared.id]) == [record.id for record in store.list()]
    for record in store.list():
        store.verify(record)
    assert store.get("shared").revision == 7
    assert store.storage.entries("leases/") == []
    assert list(store.staging.iterdir()) == []


def test_changes_of_different_fields_are_all_kept_whatever_record_they_began_with(store: TeacherStore, tmp_path: Path):
    record = publish(store, make_weights(tmp_path), log=make_log(tmp_path / "log"))
    with_log = store.add_experience(record.id, make_log(tmp_path / "other", chunks=2))
    scored = store.replace(record.model_copy(update={"random_score": -21.0, "score": None}))
    assert (scored.revision, scored.random_score, scored.score) == (3, -21.0, None)
    assert scored.experience == with_log.experience
    later = store.replace(record.model_copy(update={"random_score": -20.0}))  # of one field the later counts
    assert (later.random_score, later.score, later.experience) == (-20.0, None, with_log.experience)
    assert store.replace(later) == later  # what changes nothing writes nothing
    old = store.catalogue.revisions.get(record.id, 3)
    assert old is not None
    assert old.record == scored


def test_threads_that_change_one_record_each_get_a_revision(store: TeacherStore, tmp_path: Path):
    record = publish(store, make_weights(tmp_path))

    def change(number: int) -> int:
        return store.replace(record.model_copy(update={"random_score": float(number)})).revision

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(change, range(12))) == list(range(2, 14))


def test_a_removed_teacher_is_not_changed(store: TeacherStore, tmp_path: Path):
    record = publish(store, make_weights(tmp_path))
    store.remove(record.id)
    with pytest.raises(UserError, match="was removed meanwhile"):
        store.replace(record.model_copy(update={"random_score": -21.0}))
    with pytest.raises(UserError, match="is not in this store"):
        store.replace(record.model_copy(update={"id": "other", "random_score": -21.0}))
    assert store.list() == []


def test_what_several_teachers_have_is_kept_once(store: TeacherStore, tmp_path: Path):
    make_training_state(tmp_path / "state")
    log = make_log(tmp_path / "log")
    for name in ("one", "two"):
        publish(store, make_weights(tmp_path), name=name, training_state=tmp_path / "state", log=log)
    found = {entry.name.rpartition("/")[2] for entry in store.storage.entries("objects/")}
    assert found == {*hashes_of(store.get("one")).values()} == {*hashes_of(store.get("two")).values()}
    assert (tmp_path / "state").samefile(store.folder(store.get("one")) / "training_state.safetensors")


def test_an_object_that_was_damaged_is_whole_again_once_its_file_is_published_anew(store: TeacherStore, tmp_path: Path):
    record = publish(store, make_weights(tmp_path), name="one")
    path = store.weights_path(record)
    (source,) = store.storage.entries("objects/")
    stored = store.root / source.name
    copy = Path(shutil.copy(make_weights(tmp_path, 0), tmp_path / "copy"))
    stored.unlink()
    path.unlink()
    stored.write_bytes(b"damaged")
    store.verify(publish(store, copy, name="two"))
    store.verify(record)


def test_a_function_is_a_teacher_without_weights(store: TeacherStore):
    function = Function(
        entry_point="expert", distribution="experts", version="1.0", cacheable=True, seconds_per_state=0.1
    )
    record = register(store, function)
    assert (record.kind, record.weights, record.function) == ("probabilities", None, function)
    store.verify(store.get(record.id))
    slower = function.model_copy(update={"seconds_per_state": 0.2})
    with pytest.raises(UserError, match="is in the store already"):
        register(store, slower)
    assert register(store, function.model_copy(update={"version": "1.1"})).id != record.id


def register(store: TeacherStore, function: Function) -> TeacherRecord:
    return store.publish(
        NewTeacher(
            name="expert",
            kind="probabilities",
            function=function,
            env=ENV,
            network=None,
            frame_shape=(42, 42),
            frame_stack=4,
            num_actions=6,
            weights=None,
            score=SCORE,
        )
    )
