"""The acting loop: rows in, actions and chunks out.

    EnvPool lanes --> policy --> epsilon-greedy, or the guiding teacher --> EnvPool lanes
                        |  rows, actions, the policy's Q values
                        +--> chunk writer --> sender --> replay table `online`

New weights are taken between two steps. Everything else that is not a step happens about once a second.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import structlog

from actors.chunk_writer import ChunkWriter
from actors.envs import env_spec, make_lanes
from actors.episodes import EpisodeTracker
from actors.exploration import Exploration, make_exploration
from actors.guide import Guide
from actors.lanes import LaneRows, Lanes
from actors.policy import QPolicy
from actors.rollout import QFunction
from actors.sender import ChunkSender, ChunkSink
from actors.weights import PolicyWeights, WeightSubscriber
from upcycle.config.run import ActorsConfig, RunConfig
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, encode_chunk
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, seed_for
from upcycle.schedules import linear

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 5.0
_RECENT_EPISODES: Final = 100


class Actor:
    """Plays `config.actors.lanes` lanes with the newest policy until `stop` is set.

    It starts once the learner has published weights and left the offline phase, which needs no actors.

    Args:
      config: of the run.
      spec: of the run's chunks.
      folder: where its heartbeat goes.
      index: of this actor in the run.
      replay: where its chunks go.
      subscriber: where its weights come from.
      metrics: of this process.
      stop: ends `run`.
      teacher: Q values of the guiding teacher; required unless `guide.kind` is "nobody".
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        *,
        folder: RunFolder,
        index: int,
        replay: ChunkSink,
        subscriber: WeightSubscriber,
        metrics: Metrics,
        stop: StopSignal,
        teacher: QFunction | None = None,
    ) -> None:
        assert teacher is not None or config.guide.kind == "nobody", "guide.kind needs a teacher"
        self._config, self._folder, self._index = config, folder, index
        self._spec, self._replay = spec, replay
        self._subscriber, self._metrics, self._stop, self._teacher = subscriber, metrics, stop, teacher
        lanes = config.actors.lanes
        self._env_spec = env_spec(config.env)
        self._policy = QPolicy(
            config.network, self._env_spec, threads=config.actors.threads, noisy=config.network.noisy
        )
        self._episodes = EpisodeTracker(lanes)
        # New transitions get their TD error as priority, or else the highest one.
        rating = View.of_run(config, spec) if config.actors.initial_priorities == "td_error" else None
        self._writer = ChunkWriter(spec, lanes, rating=rating)
        self._weights: PolicyWeights | None = None
        self._frames = self._frames_at_weights = self._reported_frames = 0
        self._num_actions = self._num_guided = 0
        self._epsilon = config.actors.epsilon_start
        self._num_episodes = 0
        self._returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._next_housekeeping = 0.0

    def run(self) -> None:
        """Acts until stopped, then sends its last chunks. Raises: what replay could not recover from."""
        self._await_weights()
        if self._weights is None:
            return
        config, seed = self._config.actors, self._fresh_seed(self._weights)
        explore = make_exploration(config, num_actions=self._env_spec.num_actions, seed=seed)
        guide = Guide(self._config.guide, config.lanes, np.random.default_rng(seed_for(seed, "guide", self._index)))
        sender = ChunkSender(self._replay, table="online", capacity=config.lanes)
        try:
            with make_lanes(
                self._config.env,
                lanes=config.lanes,
                recv_batch=config.recv_batch or max(config.lanes // 2, 1),
                seed=seed,
                threads=config.threads,
                training=True,
            ) as lanes:
                while not self._stop.is_set():
                    self._send(sender, self._step(lanes, guide, explore))
                    self._follow_weights()
                    self._housekeep()
            self._send(sender, self._writer.flush())
        finally:
            if not sender.close(_CLOSE_SECONDS):
                _log.warning("chunks_given_up", writer_id=sender.writer_id)

    def status(self) -> dict[str, Any]:
        """For the driver and the heartbeat file.

        `guided_share` is the fraction of actions chosen by the teacher; `mean_return` is that of exploring episodes.
        """
        return {
            "state": "waiting" if self._weights is None else "acting",
            "frames": self._frames,
            "epsilon": self._epsilon,
            "guided_share": self._num_guided / max(self._num_actions, 1),
            "policy_version": -1 if self._weights is None else self._weights.version,
            "episodes": self._num_episodes,
            "mean_return": float(np.mean(self._returns)) if self._returns else None,
        }

    def _await_weights(self) -> None:
        """Waits for the first weights to act with, or until stopped."""
        waits = self._metrics.waits
        while not self._stop.is_set():
            weights = self._subscriber.poll(time.monotonic())
            if weights is not None and weights.metadata.get("phase") != "offline":
                self._load(weights)
                waits.working()
                return
            if weights is not None:
                waits.waiting("phase")
            elif (wait := waits.now()) is None or wait.kind == "weights":
                waits.waiting("weights", self._subscriber.problem or "none has been published")
            self._housekeep()
            self._stop.wait(min(self._config.actors.weight_poll_seconds, _HOUSEKEEPING_SECONDS))

    def _fresh_seed(self, weights: PolicyWeights) -> int:
        """A seed that differs after a restart: repeating the same games would teach nothing new."""
        seed = seed_for(self._config.seed, "actor", self._index)
        return seed_for(seed, f"from frame {weights.metadata.get('env_frames', 0)}", self._index)

    def _step(self, lanes: Lanes, guide: Guide, explore: Exploration) -> list[Chunk]:
        """Steps one batch of lanes; returns the chunks that it completes."""
        assert self._weights is not None
        started = time.monotonic()
        rows = lanes.recv()
        q_values = self._policy.q_values(rows.observation)
        own_frames = self._frames - self._frames_at_weights
        self._epsilon = epsilon_for(self._config.actors, self._weights.metadata, own_frames=own_frames)
        action = explore.choose(q_values, rows.lane, rows.first, epsilon=self._epsilon)
        if self._teacher is not None:
            frames = online_frames(self._weights.metadata, own_frames=own_frames * self._config.actors.num_actors)
            guided = guide.choose(rows.lane, rows.first, phase_frames=frames)
            self._apply_guide(self._teacher, rows, guided, action)
        lanes.send(action, rows.lane)  # the environments step while the rows are stored
        self._frames += int(np.count_nonzero(~rows.first)) * self._env_spec.frame_skip
        for episode in self._episodes.update(rows):
            self._num_episodes += 1
            self._returns.append(episode.raw_return)
            self._metrics.increment("actor_episodes_total")
            self._metrics.set("actor_episode_return", episode.raw_return)
        chunks = self._writer.push(rows, action, q_values=q_values, policy_version=self._weights.version)
        self._metrics.observe("actor_step_seconds", time.monotonic() - started)
        return chunks

    def _apply_guide(self, teacher: QFunction, rows: LaneRows, guided: Array, action: Array) -> None:
        """Replaces the actions of guided rows by the teacher's, in place; the student's Q values stay."""
        if guided.any():
            action[guided] = teacher(rows.observation[guided]).argmax(axis=1)
        counts = ~rows.ended  # the action of a row that ends an episode is ignored
        num_guided = int(np.count_nonzero(guided & counts))
        self._num_actions += int(np.count_nonzero(counts))
        self._num_guided += num_guided
        self._metrics.increment("actor_guided_frames_total", num_guided * self._env_spec.frame_skip)

    def _send(self, sender: ChunkSender, chunks: Sequence[Chunk]) -> None:
        """Queues chunks for sending; waits while replay holds inserts back, unless stopped."""
        started = time.monotonic()
        if chunks:
            self._metrics.moments.first("first_chunk")
        for chunk in chunks:
            data = encode_chunk(chunk, self._spec, codec=self._config.actors.compression)
            while not sender.put(data, _HOUSEKEEPING_SECONDS):
                if self._stop.is_set():
                    _log.warning("chunks_given_up", writer_id=sender.writer_id)
                    return
                timeout = sender.last_timeout
                self._metrics.waits.waiting("room" if timeout is None else timeout.waits_for, str(timeout or ""))
                self._follow_weights()
                self._housekeep()
            self._metrics.waits.working()
        if chunks:
            self._metrics.increment("actor_insert_wait_seconds_total", time.monotonic() - started)

    def _follow_weights(self) -> None:
        weights = self._subscriber.poll(time.monotonic())
        if weights is not None:
            self._load(weights)

    def _load(self, weights: PolicyWeights) -> None:
        self._policy.load(weights.tensors)
        lag = 0 if self._weights is None else max(weights.version - self._weights.version, 0)
        self._metrics.set("actor_weight_lag_versions", lag)
        self._metrics.set("actor_policy_version", weights.version)
        self._weights, self._frames_at_weights = weights, self._frames
        self._metrics.moments.first("first_weights")

    def _housekeep(self) -> None:
        """Writes metrics and the heartbeat, about once a second."""
        now = time.monotonic()
        if now < self._next_housekeeping:
            return
        self._next_housekeeping = now + _HOUSEKEEPING_SECONDS
        self._metrics.increment("actor_frames_total", self._frames - self._reported_frames)
        self._reported_frames = self._frames
        self._metrics.set("actor_epsilon", self._epsilon)
        self._folder.write_status("actor", self._index, self.status())


def epsilon_for(config: ActorsConfig, metadata: Mapping[str, str], *, own_frames: int) -> float:
    """Epsilon at the run's frame count, as estimated by one actor.

    Args:
      config: the schedule.
      metadata: of the current weights: `env_frames` of all actors when they were published, and `epsilon_done`, "1"
        after an offline phase.
      own_frames: frames of this actor since it loaded them; the other actors are assumed to be as fast.
    """
    if metadata.get("epsilon_done") == "1":
        return config.epsilon_end
    frames = int(metadata.get("env_frames", "0")) + own_frames * config.num_actors - config.epsilon_warmup_frames
    return linear(frames, start=config.epsilon_start, end=config.epsilon_end, duration=config.epsilon_decay_frames)


def online_frames(metadata: Mapping[str, str], *, own_frames: int) -> int | None:
    """Environment frames since the online phase began, as estimated by one actor; None in another phase.

    Args:
      metadata: of the current weights: `phase`, and `phase_env_frames` of all actors when they were published.
      own_frames: estimated frames of all actors since this one loaded them.
    Raises: KeyError if the metadata lacks either.
    """
    return int(metadata["phase_env_frames"]) + own_frames if metadata["phase"] == "online" else None
