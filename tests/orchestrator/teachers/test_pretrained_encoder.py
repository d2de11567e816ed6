"""Students whose torso begins as a pretrained one: checked before the run exists, frozen or not, and remembered."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.envs import env_spec
from orchestrator.run.launch import resume
from orchestrator.run.progress import SilentView
from orchestrator.teachers.pretrained_encoder import find_encoder, read_torso
from orchestrator.teachers.publishing import publish_from_run
from teacher_store.store.store import TeacherStore
from tests.helpers.cartpole_learner import new_learner, random_experience, replay, run_folder
from tests.helpers.in_process import run_in_process
from tests.helpers.runs import catch, plan_for
from tests.orchestrator.run.test_pong_rainbow import PRESETS, SHORT, publish_untrained
from upcycle.config.io import load_config
from upcycle.config.run import EnvConfig, NetworkConfig, RunConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder, Tensors, read_snapshot, write_snapshot

pytestmark = pytest.mark.slow

PONG = ("env.frame_size=42", "network.width=0.25", "network.hidden=32")


def scratch(*overrides: str) -> RunConfig:
    """A run from scratch on small frames of Pong that begins with the encoder of the store's teacher."""
    short = [change for change in SHORT if not change.startswith("teacher.")]
    return load_config(PRESETS / "nature_dqn.toml", [*short, *PONG, "encoder.init_from=untrained", *overrides])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TeacherStore:
    return publish_untrained(tmp_path_factory.mktemp("store"), EnvConfig(frame_size=42))


def torso_of(tensors: Tensors) -> dict[str, Array]:
    return {name.removeprefix("torso."): array for name, array in tensors.items() if name.startswith("torso.")}


def same(mine: dict[str, Array], theirs: dict[str, Array]) -> bool:
    assert mine.keys() == theirs.keys()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def newest(folder: RunFolder) -> Tensors:
    ref = SnapshotFolder(folder.snapshots).latest()
    assert ref is not None
    return SnapshotFolder(folder.snapshots).load(ref).tensors


def test_a_run_with_a_frozen_encoder_ends_with_its_torso_and_remembers_it(store: TeacherStore, tmp_path: Path) -> None:
    source = store.get("untrained")
    assert source.weights is not None
    config = scratch(
        "encoder.frozen=true", "learner.weight_average_decay=0.9", "rl.env_frames=800", "env.max_episode_steps=20"
    )
    run = run_in_process(config, tmp_path / "run", store)
    assert run.status["learner-0"]["learner_steps"] > 5
    expected = read_snapshot(store.weights_path(source)).tensors
    assert same(torso_of(newest(run.folder)), torso_of(expected))
    student = publish_from_run(run.folder.path, store, name="student")
    assert (student.parents, student.provenance.encoder) == ((source.id,), source.weights.sha256)
    # What a run has published is an encoder as well, and says what it is.
    (path,) = sorted(run.folder.snapshots.glob("policy-*"))[-1:]
    again = find_encoder(scratch(f"encoder.init_from={path}"), env_spec(config.env), store)
    assert again is not None
    assert again.to_manifest()["id"] is None
    assert same(dict(read_torso(again.to_manifest())), torso_of(expected))
    with pytest.raises(UserError, match=r"network\.width = 0\.5: encoder.init_from: the torso of .*has 0\.25; set"):
        find_encoder(scratch(f"encoder.init_from={path}", "network.width=0.5"), env_spec(config.env), store)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_torso_is_taken_over_once_and_a_resumed_run_goes_on_with_its_own(frozen: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = build_network(NetworkConfig(kind="mlp", hidden=32), frame_shape=(4,), stack=1, num_actions=2)
    source, asked = torso_of(to_numpy(network.state_dict())), list[int]()
    folder = run_folder(
        tmp_path,
        phases=["offline"],
        offline={"learner_steps": 600},
        encoder={"init_from": "other.safetensors", "frozen": frozen},
        distillation={"coefficient": 0},
    )

    def torso() -> dict[str, Array]:
        asked.append(1)
        return source

    with replay("teacher", random_experience()) as client:
        stop = StopSignal()
        worker, _ = new_learner(folder, client, stop=stop, initial_torso=torso)
        thread = threading.Thread(target=worker.run)
        thread.start()
        while worker.status()["learner_steps"] < 60:
            stop.wait(0.01)
        stop.set()
        thread.join(30)
        snapshots = SnapshotFolder(folder.snapshots)
        assert snapshots.versions()[0] == 1
        assert same(torso_of(read_snapshot(snapshots.path / snapshots.name_of(1)).tensors), source)
        halfway = torso_of(newest(folder))
        assert same(halfway, source) == frozen
        new_learner(folder, client, initial_torso=torso)[0].run()
    assert len(asked) == 1
    assert folder.phases()[0]["learner_steps"] == 600
    assert same(torso_of(newest(folder)), source) == frozen
    assert not np.array_equal(newest(folder)["head.weight"], to_numpy(network.state_dict())["head.weight"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("encoder.init_from=untraind",), "did you mean untrained"),
        (("network.kind=impala",), r"network\.kind = 'impala'.* has 'nature'; set network.kind=nature, or choose"),
        (("network.width=1.0",), r"network\.width = 1\.0: .*has 0\.25; set network\.width=0\.25"),
        (("network.padding=valid", "env.frame_size=84"), r"network\.padding = 'valid': .*set network.padding=same"),
        (("env.frame_size=84",), r"env\.frame_size = 84: .*sees frames of \(42, 42\); set env\.frame_size=42"),
        (("env.frame_stack=2",), r"env\.frame_stack = 2: .*sees 4 frames; set env\.frame_stack=4"),
        (("env.task=CartPole-v1", "network.kind=mlp"), r"network\.kind = 'mlp'.* has 'nature'"),
        (("encoder.init_from=gone.safetensors",), "there is no such file; give a file, or the name of a teacher"),
    ],
)
def test_a_torso_that_is_not_the_students_is_refused_before_the_run_exists(
    overrides: tuple[str, ...], message: str, store: TeacherStore
) -> None:
    with pytest.raises(UserError, match=message):
        plan_for(scratch(*overrides), store.root)


def test_a_file_is_refused_by_its_shapes_and_values(store: TeacherStore, tmp_path: Path) -> None:
    config = scratch(f"encoder.init_from={tmp_path / 'other.safetensors'}")
    tensors = read_snapshot(store.weights_path(store.get("untrained"))).tensors
    name = "torso.1.weight"

    def find(tensors: dict[str, Array]) -> None:
        write_snapshot(tmp_path / "other.safetensors", tensors, {})
        find_encoder(config, env_spec(config.env), store)

    find({**tensors, "decoder.weight": np.zeros(3, np.float32)})  # what is beside the torso is no matter
    with pytest.raises(UserError, match=rf"its {name} is \(8, 1, 8, 8\), the student's \(8, 4, 8, 8\); set network"):
        find({**tensors, name: tensors[name][:, :1]})
    with pytest.raises(UserError, match=rf"its {name} is missing"):
        find({key: array for key, array in tensors.items() if key != name})
    with pytest.raises(CorruptDataError, match=rf"{name} holds values that are not finite"):
        find({**tensors, name: np.full_like(tensors[name], np.nan)})
    (tmp_path / "other.safetensors").write_bytes(b"no such thing")
    with pytest.raises(CorruptDataError, match="not a safetensors file"):
        find_encoder(config, env_spec(config.env), store)
    write_snapshot(tmp_path / "other.safetensors", tensors, {"network": "{}", "env": "nonsense"})
    with pytest.raises(CorruptDataError, match="header describes no network or no environment"):
        find_encoder(config, env_spec(config.env), store)


def test_an_encoder_that_changed_after_the_run_was_planned_is_noticed(store: TeacherStore, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    tensors = read_snapshot(store.weights_path(store.get("untrained"))).tensors
    write_snapshot(path, tensors, {})
    config = scratch(f"encoder.init_from={path}")
    found = find_encoder(config, env_spec(config.env), store)
    assert found is not None
    write_snapshot(path, {**tensors, "more": np.zeros(1, np.float32)}, {})
    with pytest.raises(CorruptDataError, match="SHA-256"):
        read_torso(found.to_manifest())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("encoder.init_from=", "encoder.frozen=true"), "would leave the torso at random"),
        (("teacher.id=untrained", "teacher.reload=weights"), "leave out one of them"),
    ],
)
def test_what_contradicts_itself_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scratch(*overrides)


def test_an_encoder_comes_at_the_beginning_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", catch())
    with pytest.raises(UserError, match=r"encoder.*cannot change in a run that has begun"):
        resume(folder.path, ["encoder.init_from=untrained"], view=SilentView(), place=None)
