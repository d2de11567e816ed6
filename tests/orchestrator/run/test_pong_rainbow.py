"""QDagger with an Impala-CNN Rainbow student on the frames of Pong: a few steps of every phase."""

from pathlib import Path

import pytest
import torch

from teacher_store.records.record import Score
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import BUNDLED, TeacherStore
from tests.helpers.in_process import run_in_process
from tests.helpers.paths import PRESETS
from upcycle.config.io import load_config
from upcycle.config.run import EnvConfig, NetworkConfig, RunConfig
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

pytestmark = pytest.mark.slow

SHORT = (
    "env.max_episode_steps=60", "teacher.collect_frames=800",
    "offline.learner_steps=4", "online.env_frames=700", "rl.env_frames=400",
    "learner.batch_size=8", "learner.prefetch_batches=2", "learner.batches_per_request=1", "learner.publish_period=5",
    "learner.memory_format=contiguous", "learner.precision=float32",
    "replay.num_shards=1", "replay.capacity_steps=4_000", "replay.chunk_steps=16", "replay.min_size_to_sample=96",
    "replay.error_buffer_steps=200", "replay.samples_per_insert=0.5",
    "actors.num_actors=1", "actors.lanes=4", "actors.weight_poll_seconds=0.1",
    "evaluation.episodes=2", "evaluation.final_episodes=2", "evaluation.finalists=1", "evaluation.lanes=2",
    "evaluation.period_frames=0",
)  # fmt: skip


def publish_untrained(root: Path, env: EnvConfig) -> TeacherStore:
    """A store with a teacher that sees what `env` shows, and knows nothing."""
    torch.manual_seed(0)
    network, shape = NetworkConfig(width=0.25, hidden=16), (env.frame_size, env.frame_size)
    weights = to_numpy(build_network(network, frame_shape=shape, stack=4, num_actions=6).state_dict())
    write_snapshot(root / "weights", weights, {})
    store = TeacherStore(root / "store", bundled=None)
    store.publish(
        NewTeacher(
            name="untrained",
            env=env,
            network=network,
            frame_shape=shape,
            frame_stack=4,
            num_actions=6,
            weights=root / "weights",
            score=Score(mean_return=-20.0, episodes=1, epsilon=0.0, interval_low=-20.0, interval_high=-20.0),
            random_score=-20.7,
        )
    )
    return store


def check(config: RunConfig, store: TeacherStore, path: Path) -> None:
    run = run_in_process(config, path, store)
    phases = run.folder.phases()
    assert [phase["phase"] for phase in phases] == ["offline", "online", "rl"]
    assert all(phase["learner_steps"] > 0 for phase in phases)
    assert run.final["policy_version"] >= 1
    assert -21.0 <= run.mean_return <= 21.0


def test_frames_of_42_pixels_from_the_bundled_teacher(tmp_path: Path) -> None:
    config = load_config(PRESETS / "pong_rainbow.toml", SHORT)
    check(config, TeacherStore(tmp_path / "store", bundled=BUNDLED), tmp_path / "run")


def test_frames_of_84_pixels_and_the_protocol_of_the_paper(tmp_path: Path) -> None:
    config = load_config(PRESETS / "impala_rainbow.toml", [*SHORT, "teacher.id=untrained"])
    check(config, publish_untrained(tmp_path, config.env), tmp_path / "run")
