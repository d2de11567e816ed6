"""A whole learner on its real edges: replay shards over gRPC, a teacher from a store, files."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.checkpoint import CheckpointFolder
from teacher_store.teacher import Teacher
from tests.helpers.cartpole_learner import BASE, CHUNKS, new_learner, replay, run_folder
from upcycle.errors import UserError
from upcycle.experience.chunks import COLUMNS, Chunk, decode_chunk, encode_chunk
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder

pytestmark = pytest.mark.slow


def student_q_values(folder: RunFolder, observation: torch.Tensor) -> torch.Tensor:
    snapshots = SnapshotFolder(folder.snapshots)
    ref = snapshots.latest()
    assert ref is not None
    network = build_network(folder.config.network, frame_shape=(4,), stack=1, num_actions=2)
    tensors = snapshots.load(ref).tensors
    network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return network(observation).detach()


def test_the_offline_phase_makes_a_student_that_acts_like_its_teacher(
    tmp_path: Path, teacher: Teacher, experience: list[bytes]
) -> None:
    folder = run_folder(tmp_path, phases=["offline"])
    with replay("teacher", experience) as client:
        worker, metrics = new_learner(folder, client, [teacher])
        worker.run()
        assert client.stats("teacher").num_sampled >= 300 * 32
        assert client.stats("teacher").num_stale_updates == 0
    assert worker.status()["phase"] == "done"
    assert metrics.value("learner_steps_total") == 300
    assert metrics.value("learner_phase") == 3
    assert [(phase["phase"], phase["learner_steps"]) for phase in folder.phases()] == [("offline", 300)]
    frames = np.concatenate([decode_chunk(chunk, CHUNKS).frame for chunk in experience])
    seen = torch.from_numpy(frames[:, None])
    theirs, ours = teacher.values(seen), student_q_values(folder, seen)
    assert 0.2 < (theirs.argmax(1) == 0).float().mean() < 0.8, "this teacher is too easy to imitate"
    assert (theirs.argmax(1) == ours.argmax(1)).float().mean() > 0.85  # the draws of a shard are not seeded
    latest = SnapshotFolder(folder.snapshots).latest()
    assert latest is not None
    metadata = SnapshotFolder(folder.snapshots).load(latest).metadata
    assert (metadata["epsilon_done"], metadata["learner_steps"], metadata["phase"]) == ("1", "300", "done")
    assert json.loads(metadata["network"])["kind"] == "mlp"


def test_a_stopped_learner_goes_on_from_its_checkpoint(
    tmp_path: Path, teacher: Teacher, experience: list[bytes]
) -> None:
    folder, stop = run_folder(tmp_path, phases=["offline"], offline={"learner_steps": 2000}), StopSignal()
    with replay("teacher", experience) as client:
        worker, _ = new_learner(folder, client, [teacher], stop)
        thread = threading.Thread(target=worker.run)
        thread.start()
        while worker.status()["learner_steps"] < 100:
            stop.wait(0.01)
        stop.set()
        thread.join(30)
        made = worker.status()["learner_steps"]
        assert 100 <= made < 2000
        assert not folder.phases()
        resumed, metrics = new_learner(folder, client, [teacher])
        resumed.run()
    assert metrics.value("learner_steps_total") == 2000 - made
    assert folder.phases()[0]["learner_steps"] == 2000


def test_a_checkpoint_of_an_older_version_is_refused_in_words(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, phases=["rl"])
    CheckpointFolder(folder.checkpoints).save({"phases": {}}, learner_steps=3, counters={})
    with replay("online", []) as client, pytest.raises(UserError, match="written by an older version"):
        new_learner(folder, client)[0].run()


def test_scores_of_the_online_phase_move_the_multiplier_and_wean(
    tmp_path: Path, teacher: Teacher, experience: list[bytes]
) -> None:
    config = {"phases": ["online", "rl"], "online": {"env_frames": 10**9}, "rl": {"env_frames": 10**9}}
    learning: dict[str, Any] = BASE["learner"] | {"final_learning_rate": 3e-4}
    folder, stop = run_folder(tmp_path, **config, learner=learning), StopSignal()
    score: dict[str, Any] = {
        "env_frames": 0,
        "learner_steps": 0,
        "mean_return": 9.0,
        "episodes": 1,
        "returns": [],
        "kind": "evaluation",
    }

    def wait_for(key: str, value: object) -> None:
        while worker.status()[key] != value:
            assert thread.is_alive()
            stop.wait(0.02)

    with replay("online", experience) as client:
        worker, metrics = new_learner(folder, client, [teacher], stop)
        thread = threading.Thread(target=worker.run)
        thread.start()
        wait_for("distillation_multiplier", 1.0)
        folder.append_score(score | {"phase": "offline", "policy_version": 1, "normalised": 2.0})
        folder.append_score(score | {"phase": "online", "policy_version": 5, "normalised": 0.6})
        wait_for("distillation_multiplier", pytest.approx(0.4))
        assert worker.status()["phase"] == "online", "a score of the offline phase must not wean"
        folder.append_score(score | {"phase": "online", "policy_version": 6, "normalised": 1.01})
        wait_for("phase", "rl")
        steps = metrics.value("learner_steps_total")
        while metrics.value("learner_steps_total") < steps + 200:
            stop.wait(0.02)
        stop.set()
        thread.join(30)
    assert worker.status()["env_frames"] > 0
    assert metrics.value("learner_distillation_multiplier") == 0.0
    assert metrics.value("learner_learning_rate") == pytest.approx(3e-4)
    assert folder.phases()[0]["phase"] == "online"


def test_a_table_that_can_never_be_drawn_from_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes of two steps, cut off by the task itself, under targets of three."""
    monkeypatch.setattr("learner.starvation.PATIENCE_SECONDS", 0.0)
    columns = {name: np.zeros(CHUNKS.steps + 5, dtype) for name, dtype in COLUMNS.items()}
    columns["first"][0::3], columns["truncated"][1::3], columns["priority"][:] = True, True, 1.0
    columns["priority"][2::3] = 0.0
    chunk = Chunk(np.zeros((CHUNKS.steps + 5, 4), np.float32), columns)
    folder = run_folder(tmp_path, phases=["offline"])
    with replay("teacher", [encode_chunk(chunk, CHUNKS)] * 3) as client:
        assert client.stats("teacher").num_transitions > 30
        with pytest.raises(UserError, match=r"learner.n_step = 3: none of the \d+ transitions of the table 'teacher'"):
            new_learner(folder, client)[0].run()
