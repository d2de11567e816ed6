"""Teachers from one store to another on the command line: export, import, lineage, remove, gc."""

import json
from pathlib import Path

import pytest

from orchestrator.cli.app import main
from orchestrator.teachers.bundles import import_bundle
from teacher_store.store.bundle import RECORD
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from tests.helpers.stored import ENV, SCORE, make_log, make_weights, publish
from tests.helpers.teacher_bundles import rewrite
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

NETWORK = NetworkConfig(width=0.0625, hidden=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    """A teacher that can compute, with a log and a parent."""
    path = tmp_path_factory.mktemp("first")
    store = TeacherStore(path / "store", bundled=None)
    parent = publish(store, make_weights(path, 1), name="parent")
    network = build_network(NETWORK, frame_shape=(42, 42), stack=4, num_actions=6)
    write_snapshot(path / "weights", to_numpy(network.state_dict()), {})
    store.publish(
        NewTeacher(
            name="child",
            env=ENV,
            network=NETWORK,
            frame_shape=(42, 42),
            frame_stack=4,
            num_actions=6,
            weights=path / "weights",
            score=SCORE,
            log_directory=make_log(path / "log"),
            parents=(parent.id,),
        )
    )
    return store


@pytest.fixture(scope="module")
def bundle(store: TeacherStore) -> Path:
    path = store.root.parent / "child.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPCYCLE_TEACHERS", str(store.root))
        assert main(["teacher", "export", "child", "--output", str(path)]) == 0
    return path


def test_a_teacher_goes_to_another_machine_with_its_score_and_descent(
    store: TeacherStore,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "other"))
    (renamed := tmp_path / "whatever").write_bytes(bundle.read_bytes())
    assert main(["teacher", "import", str(renamed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == store.get("child").id
    other = TeacherStore(tmp_path / "other", bundled=None)
    assert other.get("child") == store.get("child").model_copy(update={"revision": 1})
    other.verify(other.get("child"))
    assert list(other.staging.iterdir()) == []
    assert main(["lineage", "child", "--json"]) == 0
    shown = {teacher["name"]: teacher for teacher in json.loads(capsys.readouterr().out)["teachers"]}
    assert shown.keys() == {"parent", "child"}
    assert shown["parent"]["score"] == 5.0
    assert main(["teacher", "show", "parent"]) == 2  # a record, and no teacher
    assert main(["teacher", "import", str(renamed)]) == 2
    assert "is in the store already" in capsys.readouterr().err


def test_remove_and_gc_on_the_command_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "other"))
    assert main(["teacher", "import", str(bundle)]) == 0
    assert main(["teacher", "remove", "child"]) == 0
    assert "gc" in capsys.readouterr().out
    assert main(["teacher", "gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == []  # within a day
    assert main(["teacher", "gc", "--older-than", "0", "--dry-run"]) == 0
    assert "would go" in capsys.readouterr().out
    assert main(["teacher", "gc", "--older-than", "0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len([name for name in report["names"] if name.startswith("teachers/")]) == 3
    assert report["bytes"] > 0
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()] == []
    assert main(["teacher", "gc", "--older-than", "nan"]) == 2
    assert main(["teacher", "remove", "pong-dqn-42"]) == 2


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"hidden": 2', '"hidden": 3', "weights do not fit"),
        ('"hidden": 2', '"hidden": 1000000000', "parameters, its weight file fewer bytes"),
        ('"hidden": 2', f'"hidden": {2**63}', "describes no network"),  # torch's TypeError, found by fuzzing
        ('"kind": "nature"', '"kind": "mlp"', "describes no network"),
        ('"num_actions": 6', '"num_actions": 7', "weights do not fit"),
    ],
)
def test_a_network_that_is_not_that_of_the_weights_is_refused(
    bundle: Path, tmp_path: Path, old: str, new: str, problem: str
):
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    rewrite(bundle, tmp_path / "lying.zip", {RECORD: change}, mend_sums=True)
    other = TeacherStore(tmp_path / "other", bundled=None)
    with pytest.raises(CorruptDataError, match=problem):
        import_bundle(other, tmp_path / "lying.zip")
    assert other.list() == other.known() == []
    assert list(other.staging.iterdir()) == []


def test_a_descent_that_would_end_in_itself_here_is_refused(store: TeacherStore, bundle: Path, tmp_path: Path):
    other = TeacherStore(tmp_path / "other", bundled=None)
    child = store.get("child")
    publish(other, make_weights(tmp_path, 1), name="parent", parents=(child.id,))
    with pytest.raises(CorruptDataError, match="descends from itself"):
        import_bundle(other, bundle)
    assert [teacher.name for teacher in other.list()] == ["parent"]


def test_ancestors_that_are_teachers_here_stay_teachers(store: TeacherStore, bundle: Path, tmp_path: Path):
    other = TeacherStore(tmp_path / "other", bundled=None)
    publish(other, make_weights(tmp_path, 1), name="parent")
    import_bundle(other, bundle)
    assert [teacher.name for teacher in other.list()] == ["child", "parent"]
    with pytest.raises(UserError, match="use the one that is there"):
        import_bundle(other, bundle)
