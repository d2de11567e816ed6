"""A whole actor on its real edges: EnvPool, a replay shard over gRPC, weights from files."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.actor import Actor, epsilon_for, online_frames
from actors.envs import chunk_spec
from actors.rollout import QFunction
from actors.weights import WeightSubscriber
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.types import SampleRequest, TableConfig
from upcycle.config.run import ActorsConfig, EnvConfig, GuideConfig, LearnerConfig, NetworkConfig, RunConfig
from upcycle.experience.chunks import Array, Chunk, decode_chunk
from upcycle.experience.windows import View
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder

pytestmark = pytest.mark.slow

CONFIG = RunConfig(
    name="test",
    phases=("rl",),
    env=EnvConfig(task="CartPole-v1"),
    network=NetworkConfig(kind="mlp", hidden=8),
    actors=ActorsConfig(num_actors=1, lanes=4, weight_poll_seconds=0.05, epsilon_decay_frames=2000),
    learner=LearnerConfig(n_step=2),
)
SPEC = chunk_spec(CONFIG.env, chunk_steps=8, n_step=2)


class Recorder:
    """Hands inserts on, and keeps their chunks."""

    def __init__(self, replay: ShardedReplay) -> None:
        self._replay = replay
        self.chunks: list[Chunk] = []

    def insert(
        self, table: str, chunks: Sequence[bytes], /, *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        self._replay.insert(
            table, chunks, writer_id=writer_id, first_sequence=first_sequence, timeout_seconds=timeout_seconds
        )
        self.chunks += [decode_chunk(data, SPEC) for data in chunks]


class Stage:
    """An actor in a thread, and everything around it."""

    def __init__(
        self,
        path: Path,
        *,
        samples_per_insert: float | None = None,
        config: RunConfig = CONFIG,
        teacher: QFunction | None = None,
    ) -> None:
        self.folder, self.stop = RunFolder.create(path / "run", config), StopSignal()
        self.metrics, self.snapshots = Metrics("actor", "test"), SnapshotFolder(self.folder.snapshots)
        self.network = build_network(CONFIG.network, frame_shape=(4,), stack=1, num_actions=2)
        table = TableConfig("online", 4000, samples_per_insert=samples_per_insert, error_buffer_steps=64)
        self.shard = ReplayShard(index=0, spec=SPEC, tables=[table], log=None, metrics=Metrics("replay", "test"))
        address = self.shard.start()
        self.replay = ShardedReplay(lambda: {0: address}, SPEC, rng=np.random.default_rng(0))
        subscriber = WeightSubscriber(
            self.snapshots, None, poll_seconds=CONFIG.actors.weight_poll_seconds, metrics=self.metrics
        )
        self.recorder = Recorder(self.replay)
        self.actor = Actor(
            config,
            SPEC,
            folder=self.folder,
            index=0,
            replay=self.recorder,
            subscriber=subscriber,
            metrics=self.metrics,
            stop=self.stop,
            teacher=teacher,
        )
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.actor.run()
        except BaseException as error:
            self.errors.append(error)

    def publish(self, version: int, **metadata: str) -> None:
        self.snapshots.publish(
            version, to_numpy(self.network.state_dict()), {"phase": "rl", "env_frames": "0"} | metadata
        )

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric of the actor has reached a value; the test's time limit is the deadline."""
        while self.metrics.value(name) < value:
            assert self.thread.is_alive(), self.errors
            self.stop.wait(0.02)

    def wait_as(self, kind: str | None) -> None:
        """Until the actor says that it waits for this, None is nothing; the test's time limit is the deadline."""
        while (None if (wait := self.metrics.waits.now()) is None else wait.kind) != kind:
            assert self.thread.is_alive(), self.errors
            self.stop.wait(0.02)

    def finish(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def staged(
    path: Path,
    *,
    samples_per_insert: float | None = None,
    config: RunConfig = CONFIG,
    teacher: QFunction | None = None,
) -> Generator[Stage]:
    torch.manual_seed(0)
    stage = Stage(path, samples_per_insert=samples_per_insert, config=config, teacher=teacher)
    stage.thread.start()
    try:
        yield stage
        stage.finish()
        assert stage.errors == []
    finally:
        stage.finish()
        stage.replay.close()
        stage.shard.stop(grace_seconds=0.5)


def test_everything_played_is_in_replay(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.publish(1)
        stage.wait_for("actor_policy_version", 1)
        stage.wait_for("actor_frames_total", 600)
        stage.publish(2)
        stage.wait_for("actor_policy_version", 2)
        stage.finish()
        status = stage.actor.status()
        stats = stage.replay.stats("online")
        assert stats.num_inserted == status["frames"] >= 600
        assert stats.num_duplicate_chunks == 0
        assert status["policy_version"] == 2
        assert status["state"] == "acting"
        assert status["episodes"] > 10
        assert 8 < status["mean_return"] < 500
        assert stage.metrics.value("actor_episodes_total") == status["episodes"]
        assert stage.metrics.value("actor_weight_lag_versions") == 1
        batch = stage.replay.sample(
            SampleRequest(
                tables="online",
                batch_size=256,
                view=View(n_step=2, stack=1),
                importance_sampling_exponent=0.5,
                timeout_seconds=10,
            )
        )[0]
        assert set(np.unique(batch.policy_version)) <= {1, 2}
        assert set(np.unique(batch.windows.action)) == {0, 1}
        assert 0 < np.count_nonzero(batch.windows.discount == 0) < 100


def test_it_waits_for_weights_and_for_the_end_of_the_offline_phase(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.stop.wait(0.3)
        stage.publish(1, phase="offline")
        stage.stop.wait(0.3)
        assert stage.actor.status()["state"] == "waiting"
        assert stage.folder.statuses()["actor-0"]["policy_version"] == -1
        stage.publish(2, phase="online", epsilon_done="1")
        stage.wait_for("actor_policy_version", 2)
        stage.wait_for("actor_frames_total", 1)
        assert stage.actor.status()["epsilon"] == CONFIG.actors.epsilon_end


def test_it_can_be_stopped_before_the_first_weights(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.finish()
        assert stage.actor.status()["frames"] == 0


def test_it_waits_when_replay_takes_no_more_and_stops_all_the_same(tmp_path: Path) -> None:
    with staged(tmp_path, samples_per_insert=1.0) as stage:
        stage.publish(1)
        stage.wait_for("actor_policy_version", 1)
        seen = -1
        while (frames := stage.actor.status()["frames"]) != seen or frames == 0:  # until it has come to rest
            seen = frames
            stage.stop.wait(0.4)
        # The limiter's buffer, and what may wait in and between the queues of the actor.
        assert seen <= 64 + SPEC.steps * CONFIG.actors.lanes * 4
        assert stage.folder.statuses()["actor-0"]["frames"] <= seen
        stage.publish(2)
        stage.wait_for("actor_policy_version", 2)  # it is alive, and follows the learner
        stage.wait_as("room")


def test_epsilon_follows_the_frames_of_all_actors() -> None:
    config = ActorsConfig(num_actors=4, epsilon_start=1.0, epsilon_end=0.1, epsilon_decay_frames=1000)
    assert epsilon_for(config, {}, own_frames=0) == 1.0
    assert epsilon_for(config, {"env_frames": "500"}, own_frames=0) == pytest.approx(0.55)
    assert epsilon_for(config, {"env_frames": "500"}, own_frames=25) == pytest.approx(0.46)
    assert epsilon_for(config, {"env_frames": "990"}, own_frames=100) == pytest.approx(0.1)
    assert epsilon_for(config, {"env_frames": "0", "epsilon_done": "1"}, own_frames=0) == 0.1
    assert epsilon_for(config, {"env_frames": "0", "epsilon_done": "0"}, own_frames=0) == 1.0


def test_epsilon_waits_for_the_end_of_the_warm_up() -> None:
    config = ActorsConfig(
        num_actors=2, epsilon_start=1.0, epsilon_end=0.0, epsilon_decay_frames=100, epsilon_warmup_frames=400
    )
    assert epsilon_for(config, {"env_frames": "400"}, own_frames=0) == 1.0
    assert epsilon_for(config, {"env_frames": "420"}, own_frames=15) == pytest.approx(0.5)
    assert epsilon_for(config, {"env_frames": "500"}, own_frames=0) == 0.0
    assert epsilon_for(config, {"env_frames": "0", "epsilon_done": "1"}, own_frames=0) == 0.0


def test_the_online_phase_has_frames_of_its_own() -> None:
    assert online_frames({"phase": "online", "env_frames": "900", "phase_env_frames": "300"}, own_frames=8) == 308
    assert online_frames({"phase": "rl", "phase_env_frames": "300"}, own_frames=8) is None
    with pytest.raises(KeyError, match="phase_env_frames"):
        online_frames({"phase": "online"}, own_frames=8)


def always_right(observation: Array) -> Array:
    """A teacher of CartPole that pushes right whatever it sees."""
    return np.tile(np.array([0.0, 1.0], np.float32), (len(observation), 1))


def played(stage: Stage, column: str) -> Array:
    """A column of all usable rows that the actor has sent."""
    usable = [chunk.columns["priority"] > 0 for chunk in stage.recorder.chunks]
    return np.concatenate(
        [chunk.columns[column][rows] for chunk, rows in zip(stage.recorder.chunks, usable, strict=True)]
    )


def test_the_teacher_acts_in_the_online_phase_alone_and_the_student_rates(tmp_path: Path) -> None:
    guide = GuideConfig(kind="opening", opening_steps=10_000)  # hardly ever shorter than an episode of ten steps
    config = CONFIG.model_copy(update={"guide": guide})
    with staged(tmp_path, config=config, teacher=always_right) as stage:
        biases = [name for name, tensor in stage.network.named_parameters() if tensor.shape == (2,)]
        with torch.no_grad():
            for name, tensor in stage.network.named_parameters():
                tensor.copy_(torch.tensor([1.0, -1.0]) if name == biases[-1] else torch.zeros(()))
        stage.publish(1, phase="online", phase_env_frames="0", epsilon_done="1")
        stage.wait_for("actor_guided_frames_total", 400)
        assert 0.9 < stage.actor.status()["guided_share"] <= 1.0
        stage.publish(2, phase="rl", phase_env_frames="0", epsilon_done="1")
        stage.wait_for("actor_policy_version", 2)
        guided = stage.metrics.value("actor_guided_frames_total")
        stage.wait_for("actor_frames_total", stage.actor.status()["frames"] + 200)
        assert stage.metrics.value("actor_guided_frames_total") == guided
        stage.finish()
        taught = played(stage, "policy_version") == 1
        actions, priorities = played(stage, "action"), played(stage, "priority")
        assert (actions[taught] == 1).mean() > 0.9
        assert (actions[~taught] == 0).mean() > 0.9  # the student's own, with an epsilon of 0.01
        # Rewards of 1 and values of 1 or less: to the student, which values left at 1 and right at -1, each of the
        # teacher's actions is worth at least 2 more than it had thought.
        assert priorities[taught & (actions == 1)].min() > 1.99


def test_new_transitions_can_be_worth_the_most_so_far(tmp_path: Path) -> None:
    actors = CONFIG.actors.model_copy(update={"initial_priorities": "max"})
    with staged(tmp_path, config=CONFIG.model_copy(update={"actors": actors})) as stage:
        stage.publish(1)
        stage.wait_for("actor_frames_total", 200)
        stage.finish()
        assert np.isinf(played(stage, "priority")).all()


def test_otherwise_they_are_worth_their_td_error(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        stage.publish(1)
        stage.wait_for("actor_frames_total", 200)
        stage.finish()
        assert np.isfinite(played(stage, "priority")).mean() > 0.5


def test_an_actor_says_what_it_waits_for(tmp_path: Path):
    with staged(tmp_path) as stage:
        stage.wait_as("weights")
        stage.publish(1, phase="offline")
        stage.wait_as("phase")
        stage.publish(2)
        stage.wait_as(None)
