import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from teacher_store.records.record import TeacherRecord, Weights
from teacher_store.store.garbage import Contents, collect_garbage, plan_garbage
from teacher_store.store.leases import Lease, hold_lease, mark_sweep
from teacher_store.store.publishing import hashes_of
from teacher_store.store.revisions import Revision
from teacher_store.store.storage import Entry, object_name
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import ENV, make_log, make_weights, old_folder, publish
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError, UserError

DAY = 86_400.0

KILLED = """
import os, signal, sys
from pathlib import Path
from teacher_store.store.local_storage import LocalStorage
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import ENV, make_log, make_weights, publish

folder, last = Path(sys.argv[1]), int(sys.argv[2])
put, count = LocalStorage.put_if_absent, 0

def put_or_die(self, name, data):
    global count
    count += 1
    if count == last:  # the lease is the first, the record the second
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, name, data)

LocalStorage.put_if_absent = put_or_die
publish(TeacherStore(folder / "store", bundled=None), make_weights(folder, 7), log=make_log(folder / "log"))
"""


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def objects(store: TeacherStore) -> set[str]:
    return {entry.name.rpartition("/")[2] for entry in store.storage.entries("objects/")}


def entry(name: str, modified: float) -> Entry:
    return Entry(name, 10, modified)


def record(name: str, weights: str, *parents: str, number: int = 1) -> TeacherRecord:
    return TeacherRecord(
        id=name,
        name=name,
        revision=number,
        env=ENV,
        network=NetworkConfig(),
        frame_shape=(42, 42),
        frame_stack=4,
        num_actions=6,
        weights=Weights(sha256=weights * 64, bytes=1),
        parents=parents,
    )


def plan(revisions: dict[str, list[tuple[Revision, float]]], leases: list[Lease], *, modified: float = 0.0) -> set[str]:
    contents = Contents(
        objects=[entry(object_name(letter * 64), modified) for letter in "abcd"],
        revisions={
            identity: [(revision, entry(revision.name, when)) for revision, when in found]
            for identity, found in revisions.items()
        },
        leases=leases,
        old={},
    )
    garbage = plan_garbage(contents, now=10 * DAY, keep_seconds=DAY)
    return {found.name[-1] if found.name.startswith("objects/") else found.name for found in garbage.entries}


def test_what_the_newest_record_names_stays_and_what_was_replaced_stays_for_a_while():
    old, new = Revision(record("x", "a")), Revision(record("x", "b", number=2))
    assert plan({"x": [(old, 0.0), (new, 8.9 * DAY)]}, []) == {"a", "c", "d"}
    assert plan({"x": [(old, 0.0), (new, 9.1 * DAY)]}, []) == {"c", "d"}
    assert plan({}, [], modified=9.1 * DAY) == set()


def test_what_a_living_lease_names_stays():
    lease = Lease(entry("leases/1", 9.5 * DAY), frozenset({"c" * 64}), frozenset({"gone"}))
    dead = Lease(entry("leases/2", 1.0), frozenset({"d" * 64}), frozenset())
    removed = Revision(record("gone", "a"), listed=False)
    assert plan({"gone": [(removed, 0.0)]}, [lease, dead]) == {"a", "b", "d", "leases/2"}


def test_records_of_removed_teachers_stay_as_long_as_anyone_descends_from_them():
    first, second = Revision(record("first", "a"), listed=False), Revision(record("second", "b", "first"), listed=False)
    third = Revision(record("third", "c", "second"))
    history = [(Revision(record("first", "a", number=number)), 0.0) for number in (1, 2)]
    gone = Revision(record("first", "a", number=3), listed=False)
    family = {"first": [(first, 0.0)], "second": [(second, 0.0)]}
    assert plan({**family, "third": [(third, 0.0)]}, []) == {"a", "b", "d"}
    assert plan(family, []) == {"a", "b", "c", "d", first.name, second.name}
    # The newest last: what is left of an interrupted deletion must not bring the teacher back.
    contents = Contents([], {"first": [(r, entry(r.name, when)) for r, when in [*history, (gone, 0.0)]]}, [], {})
    names = [found.name for found in plan_garbage(contents, now=10 * DAY, keep_seconds=DAY).entries]
    assert names == [history[0][0].name, history[1][0].name, gone.name]


def test_the_files_of_a_removed_teacher_go_and_lineage_stays_whole(store: TeacherStore, tmp_path: Path):
    parent = publish(store, make_weights(tmp_path, 1), name="parent", log=make_log(tmp_path / "log"))
    child = publish(store, make_weights(tmp_path, 2), name="child", parents=(parent.id,))
    store.remove("parent")
    assert [teacher.id for teacher in store.list()] == [child.id]
    assert [teacher.id for teacher in store.known()] == [child.id, parent.id]
    with pytest.raises(UserError, match="no such teacher"):
        store.get("parent")
    assert collect_garbage(store, keep_seconds=DAY).names == ()
    would = collect_garbage(store, keep_seconds=0, dry_run=True)
    assert {*hashes_of(parent).values()} <= objects(store)
    done = collect_garbage(store, keep_seconds=0)
    assert (done.names, done.complete) == (would.names, True)
    assert done.freed_bytes >= sum(path.stat().st_size for path in (tmp_path / "log").rglob("*.log"))
    assert objects(store) == {*hashes_of(child).values()}
    assert [teacher.id for teacher in store.known()] == [child.id, parent.id]
    again = publish(store, make_weights(tmp_path, 1), name="parent")
    assert (again.id, again.revision) == (parent.id, 3)
    for name in ("parent", "child"):
        store.remove(name)
    collect_garbage(store, keep_seconds=0)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_replaced_buffer_goes(store: TeacherStore, tmp_path: Path):
    first = publish(store, make_weights(tmp_path), log=make_log(tmp_path / "log"))
    store.open_log(first)
    second = store.add_experience(first.id, make_log(tmp_path / "other", chunks=2))
    store.open_log(second)
    collect_garbage(store, keep_seconds=0)
    assert objects(store) == {*hashes_of(second).values()}
    store.verify(second)
    assert len(list((store.root / "views").iterdir())) == 1


def test_a_removed_teacher_in_an_old_folder_goes_with_it(store: TeacherStore, tmp_path: Path):
    folder = tmp_path / "own" / "pong"
    old_folder(store, publish(store, make_weights(tmp_path)), folder)
    own = TeacherStore(tmp_path / "own", bundled=None)
    own.remove("pong-dqn")
    assert own.list() == []
    assert collect_garbage(own, keep_seconds=DAY).names == ()
    collect_garbage(own, keep_seconds=0)
    assert not folder.exists()
    collect_garbage(own, keep_seconds=0)
    assert [path for path in own.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("last", [1, 2])
def test_a_killed_publication_is_nowhere_seen_and_is_cleared_up(store: TeacherStore, tmp_path: Path, last: int):
    other = publish(store, make_weights(tmp_path))
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(last)], check=False, timeout=50)
    assert run.returncode == -signal.SIGKILL
    assert store.list() == [other]
    left = [path for path in store.root.rglob("*") if path.is_file()]
    assert collect_garbage(store, keep_seconds=DAY).names == ()
    assert [path for path in store.root.rglob("*") if path.is_file()] == left
    collect_garbage(store, keep_seconds=0)
    assert objects(store) == {*hashes_of(other).values()}
    assert list(store.staging.iterdir()) == []
    assert store.storage.entries("leases/") == []
    publish(store, make_weights(tmp_path, 7), log=tmp_path / "log")


def test_a_writer_waits_for_a_sweep_and_not_for_a_dead_one(store: TeacherStore, monkeypatch: pytest.MonkeyPatch):
    with (
        mark_sweep(store.storage),
        pytest.raises(UserError, match="is being cleared up"),
        hold_lease(store.storage, [], [], wait_seconds=0.3),
    ):
        pass
    assert store.storage.entries("leases/") == []
    monkeypatch.setattr("teacher_store.store.leases.DEAD_SWEEP_SECONDS", -1.0)
    with mark_sweep(store.storage), hold_lease(store.storage, [], [], wait_seconds=0.3):
        pass


def test_a_sweep_sees_the_lease_of_a_writer_that_came_first(store: TeacherStore, tmp_path: Path):
    kept, left = make_weights(tmp_path, 1), make_weights(tmp_path, 2)
    shas = [publish(store, path, name="x").weights for path in (kept, left)]
    assert shas[0] is not None
    assert shas[1] is not None
    for teacher in store.list():
        store.remove(teacher.id)
    time.sleep(1.1)
    with hold_lease(store.storage, [shas[0].sha256], []) as lease:
        collect_garbage(store, keep_seconds=1)
        assert objects(store) == {shas[0].sha256}
        lease.check()
        collect_garbage(store, keep_seconds=0)  # too short for any publication
        with pytest.raises(UserError, match="give the same command again"):
            lease.check()


def test_nothing_is_deleted_where_a_record_is_damaged(store: TeacherStore, tmp_path: Path):
    publish(store, make_weights(tmp_path))
    (path,) = (store.root / "teachers").rglob("*.json")
    os.truncate(path, 100)
    with pytest.raises(CorruptDataError, match=path.name):
        collect_garbage(store, keep_seconds=0)
    assert len(objects(store)) == 1
    assert store.storage.entries("sweeps/") == []


def test_what_vanishes_meanwhile_is_passed_over(store: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = tmp_path / "kept"
    kept.write_bytes(b"12345")

    def two_paths(*_: object) -> list[Path]:
        return [tmp_path / "gone", kept]

    monkeypatch.setattr("teacher_store.store.garbage._local_garbage", two_paths)
    assert collect_garbage(store, keep_seconds=-1.0).names == (str(kept),)
    assert not kept.exists()
