import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from teacher_store.records import OptimizerKind, Provenance, Score, TeacherRecord
from teacher_store.store import TeacherStore
from teacher_store.training_state import TrainingArrays, read_training_state, write_training_state
from upcycle.chunks import ChunkSpec
from upcycle.config import EnvConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience_log import ExperienceLogWriter
from upcycle.files import sha256_of
from upcycle.snapshots import write_snapshot

ENV = EnvConfig(frame_size=42)
SPEC = ChunkSpec(frame_shape=(42, 42), frame_dtype="uint8", num_actions=6)
SCORE = Score(mean_return=5.0, episodes=30, epsilon=0.001, interval_low=3.0, interval_high=7.0)


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


def make_weights(tmp_path: Path, seed: int = 0) -> Path:
    path = tmp_path / f"policy-{seed}.safetensors"
    write_snapshot(path, {"w": np.full(3, seed, np.float32)}, {})
    return path


def make_log(directory: Path, *, chunks: int = 6) -> Path:
    for shard in range(2):
        with ExperienceLogWriter.open(directory / f"shard-{shard}", SPEC, ENV, segment_bytes=200) as writer:
            for number in range(chunks):
                writer.append(np.random.default_rng(number).bytes(100), 7)
    return directory


def make_training_state(path: Path) -> TrainingArrays:
    weights = {"torso.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head": np.ones(2, np.float32)}
    optimizer = {name: {"step": np.full((), 7, np.float32), "exp_avg": 2 * weights[name]} for name in weights}
    arrays = TrainingArrays(weights, {name: -array for name, array in weights.items()}, optimizer, "adam", 7)
    write_training_state(path, arrays)
    return arrays


def publish(
    store: TeacherStore,
    weights: Path,
    *,
    name: str = "pong-dqn",
    training_state: Path | None = None,
    log: Path | None = None,
    parents: tuple[str, ...] = (),
    provenance: Provenance | None = None,
) -> TeacherRecord:
    return store.publish(
        name=name,
        env=ENV,
        network=NetworkConfig(),
        frame_shape=(42, 42),
        frame_stack=4,
        num_actions=6,
        weights=weights,
        score=SCORE,
        random_score=-20.5,
        training_state=training_state,
        log_directory=log,
        parents=parents,
        provenance=provenance,
    )


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
    assert list(store.root.iterdir()) == []
    assert store.list() == []


def test_changed_lost_and_added_files_are_noticed_when_read(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path), log=make_log(tmp_path / "run"))
    directory = store.log_directory(record)
    (directory / "shard-0" / "extra").touch()
    with pytest.raises(CorruptDataError, match="extra: is left over"):
        store.open_log(record)
    (directory / "shard-0" / "extra").unlink()
    segment = sorted(directory.rglob("*.log"))[1]
    content = segment.read_bytes()
    segment.unlink()
    with pytest.raises(CorruptDataError, match=f"{segment.name}: is missing"):
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
    assert sorted(path.name for path in (store.root / record.id).iterdir()) == sorted(
        ["teacher.json", "weights.safetensors", store.log_directory(second).name]
    )


def test_a_bundled_teacher_is_read_only_and_gets_a_record_of_the_users_own(tmp_path: Path) -> None:
    bundle = TeacherStore(tmp_path / "bundle", bundled=None)
    record = publish(bundle, make_weights(tmp_path))
    (bundle.root / record.id).rename(bundle.root / "pong-dqn")  # bundled folders have plain names
    before = {path: path.read_bytes() for path in bundle.root.rglob("*") if path.is_file()}

    store = TeacherStore(tmp_path / "own", bundled=bundle.root)
    assert [teacher.id for teacher in store.list()] == [record.id]
    assert store.weights_path(record) == bundle.root / "pong-dqn" / "weights.safetensors"
    store.add_experience(record.id, make_log(tmp_path / "log"))
    store.replace(store.get(record.id).model_copy(update={"random_score": -21.0}))
    mine = TeacherStore(tmp_path / "own", bundled=bundle.root).get("pong-dqn")
    assert mine.experience is not None
    assert mine.random_score == -21.0
    assert store.open_log(mine).num_transitions == 84
    assert len(store.list()) == 1
    assert {path: path.read_bytes() for path in bundle.root.rglob("*") if path.is_file()} == before


def test_a_score_for_a_bundled_teacher_keeps_its_experience(tmp_path: Path) -> None:
    bundle = TeacherStore(tmp_path / "bundle", bundled=None)
    record = publish(bundle, make_weights(tmp_path), log=make_log(tmp_path / "log"))
    store = TeacherStore(tmp_path / "own", bundled=bundle.root)
    updated = store.replace(record.model_copy(update={"random_score": -21.0}))
    assert store.folder(updated) == store.root / record.id
    assert store.open_log(store.get(record.id)).num_transitions == 84


def test_the_store_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))
    assert TeacherStore.default().root == tmp_path / "mine"
    monkeypatch.delenv("UPCYCLE_TEACHERS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert TeacherStore.default().root == tmp_path / "data" / "upcycle" / "teachers"


def test_an_unreadable_record_is_named(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    path = store.root / record.id / "teacher.json"
    path.write_text(path.read_text().replace('"num_actions": 6', '"num_actions": 0'))
    with pytest.raises(CorruptDataError, match=r"teacher\.json: num_actions"):
        store.get(record.id)


@pytest.mark.parametrize("file", ["../weights", "/etc/passwd", ".hidden", "a/b"])
def test_a_record_cannot_point_out_of_its_folder(store: TeacherStore, tmp_path: Path, file: str) -> None:
    record = publish(store, make_weights(tmp_path))
    values = record.model_dump()
    values["weights"]["file"] = file
    with pytest.raises(ValidationError, match=r"weights\.file"):
        TeacherRecord.model_validate(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_size": 84}, r"env\.frame_size = 84: .* trained with 42 \(wrong frame size\); set env\.frame_size=42"),
        ({"frame_stack": 2}, r"env\.frame_stack = 2: .* trained with 4"),
        ({"task": "Breakout-v5"}, r"env\.task = 'Breakout-v5': .* trained with 'Pong-v5'"),
        ({"sticky_actions": 0.25}, r"env\.sticky_actions = 0\.25"),
        ({"stack_fill": "zeros"}, r"env\.stack_fill = 'zeros'"),
        ({"resize_order": "resize_first"}, r"env\.resize_order = 'resize_first': .*; set env\.resize_order=pool_first"),
        ({"interpolation": "bilinear"}, r"env\.interpolation = 'bilinear': .* trained with 'area'"),
    ],
)
def test_a_student_that_would_see_something_else_is_refused(
    store: TeacherStore, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    record = publish(store, make_weights(tmp_path))
    with pytest.raises(UserError, match=message):
        record.check_agrees(ENV.model_copy(update=change), num_actions=6)


def test_a_student_may_start_and_end_its_episodes_differently(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    record.check_agrees(ENV.model_copy(update={"noop_max": 1, "episodic_life": True}), num_actions=6)
    with pytest.raises(UserError, match="has 6 actions, the environment 18"):
        record.check_agrees(ENV, num_actions=18)


def test_the_training_state_goes_along_and_is_verified(store: TeacherStore, tmp_path: Path) -> None:
    arrays = make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    assert record.training_state is not None
    assert (record.training_state.optimizer, record.training_state.learner_steps) == ("adam", 7)
    assert record.training_state.bytes == (tmp_path / "state").stat().st_size
    store.verify(record)
    read = read_training_state(store.get(record.id), store)
    assert (read.kind, read.learner_steps) == ("adam", 7)
    np.testing.assert_equal(
        (read.online, read.target, read.optimizer), (arrays.online, arrays.target, arrays.optimizer)
    )
    path = store.folder(record) / record.training_state.file
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(CorruptDataError, match=r"training_state\.safetensors: SHA-256"):
        read_training_state(record, store)
    with pytest.raises(CorruptDataError, match=r"training_state\.safetensors: SHA-256"):
        store.verify(record)


def test_a_teacher_of_before_has_none_and_says_so(store: TeacherStore, tmp_path: Path) -> None:
    record = publish(store, make_weights(tmp_path))
    path = store.root / record.id / "teacher.json"
    path.write_text(path.read_text().replace(' "training_state": null,\n', ""))
    assert "training_state" not in path.read_text()
    with pytest.raises(UserError, match=r"without its training state; set teacher\.optimizer=fresh"):
        read_training_state(store.get(record.id), store)


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


def test_a_bundled_teacher_keeps_its_training_state_in_the_users_store(tmp_path: Path) -> None:
    bundle = TeacherStore(tmp_path / "bundle", bundled=None)
    make_training_state(tmp_path / "state")
    record = publish(bundle, make_weights(tmp_path), training_state=tmp_path / "state")
    for name, change in (("scored", True), ("played", False)):
        store = TeacherStore(tmp_path / name, bundled=bundle.root)
        if change:
            store.replace(record.model_copy(update={"random_score": -21.0}))
        else:
            store.add_experience(record.id, make_log(tmp_path / "log"))
        own = TeacherStore(tmp_path / name, bundled=None)
        assert read_training_state(own.get(record.id), own).learner_steps == 7


@pytest.mark.parametrize(
    ("change", "optimizer", "message"),
    [
        ({"hidden": 256}, None, r"network\.hidden = 256: .* has 512; set network\.hidden=512"),
        ({"head": "c51"}, None, r"network\.head = 'c51'"),
        ({}, "rmsprop", r"teacher\.optimizer = 'restored': .* the state of adam, the student has rmsprop; .*=adam"),
    ],
)
def test_a_student_that_cannot_begin_as_its_teacher_is_refused(
    store: TeacherStore, tmp_path: Path, change: dict[str, object], optimizer: OptimizerKind | None, message: str
) -> None:
    make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    with pytest.raises(UserError, match=message):
        record.check_reload(NetworkConfig().model_copy(update=change), optimizer)


def test_a_student_that_can_begin_as_its_teacher_may(store: TeacherStore, tmp_path: Path) -> None:
    make_training_state(tmp_path / "state")
    record = publish(store, make_weights(tmp_path), training_state=tmp_path / "state")
    record.check_reload(NetworkConfig(atoms=5), "adam")  # a q head has no atoms
    record.check_reload(NetworkConfig(), None)
    without = publish(store, make_weights(tmp_path), name="without")
    without.check_reload(NetworkConfig(), None)
    with pytest.raises(UserError, match=r"without its optimizer; set teacher\.optimizer=fresh"):
        without.check_reload(NetworkConfig(), "adam")
