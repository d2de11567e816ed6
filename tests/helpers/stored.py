"""Teachers to publish, and the folders that stores used to keep them in."""

import shutil
from pathlib import Path

import numpy as np

from teacher_store.records.record import Provenance, Score, TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.training_state import TrainingArrays, write_training_state
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.runs.snapshots import write_snapshot

ENV = EnvConfig(frame_size=42)
SPEC = ChunkSpec(frame_shape=(42, 42), frame_dtype="uint8", num_actions=6)
SCORE = Score(mean_return=5.0, episodes=30, epsilon=0.001, interval_low=3.0, interval_high=7.0)


def make_weights(tmp_path: Path, seed: int = 0) -> Path:
    path = tmp_path / f"policy-{seed}.safetensors"
    write_snapshot(path, {"w": np.full(3, seed, np.float32)}, {})
    return path


def make_log(directory: Path, *, chunks: int = 6) -> Path:
    for shard in range(2):
        with ExperienceLogWriter.open(directory / f"shard-{shard}", SPEC, ENV, segment_bytes=200) as writer:
            for number in range(chunks):
                writer.append(np.random.default_rng([shard, number]).bytes(100), 7)
    return directory


def make_training_state(path: Path) -> TrainingArrays:
    weights = {"torso.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head": np.ones(2, np.float32)}
    optimizer = {name: {"step": np.full((), 7, np.float32), "exp_avg": 2 * weights[name]} for name in weights}
    arrays = TrainingArrays(weights, {name: -array for name, array in weights.items()}, optimizer, "adam", 7)
    write_training_state(path, arrays)
    return arrays


def publish(
    store: TeacherStore,
    weights: Path | None,
    *,
    name: str = "pong-dqn",
    training_state: Path | None = None,
    log: Path | None = None,
    parents: tuple[str, ...] = (),
    provenance: Provenance | None = None,
) -> TeacherRecord:
    return store.publish(
        NewTeacher(
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
            provenance=provenance or Provenance(),
        )
    )


def old_folder(store: TeacherStore, record: TeacherRecord, folder: Path) -> TeacherRecord:
    """Writes a teacher as older versions kept it; returns its record there."""
    shutil.copytree(store.folder(record), folder)
    old = record.model_copy(update={"revision": 0})
    (folder / "teacher.json").write_bytes(old.to_bytes())
    return old
