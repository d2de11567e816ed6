"""A replay client that takes transitions one by one."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from actors.chunk_writer import ChunkWriter
from actors.lanes import LaneRows
from orchestrator.api.batch import Batch, batch_of_windows
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.table_stats import TableStats
from replay_service.table.types import SampleRequest, TransitionKeys
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, encode_chunk
from upcycle.experience.windows import View

TABLE: Final = "online"
"""The one table of a server; the name under which shards log what they accept."""


@dataclass(frozen=True, slots=True, eq=False)
class Transition:
    """One agent step: frame, action, what came back for it, and the next frame.

    Attributes:
      frame: newest frame of the state, *frame_shape: frames are stacked when they are sampled.
      action: index of the action taken.
      reward: raw.
      next_frame: newest frame of the next state; of the final observation where the episode ends.
      terminated: the episode ended in a terminal state.
      truncated: a time limit cut it off.
    """

    frame: Array
    action: int
    reward: float
    next_frame: Array
    terminated: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReplayBatch:
    """A sampled batch.

    Attributes:
      transitions: the transitions themselves.
      keys: where they lie, for `ReplayClient.update_priorities`.
      probabilities: of one draw, float64 [B].
      importance_weights: (N P)^-beta divided by the largest of the batch, float32 [B].
    """

    transitions: Batch
    keys: TransitionKeys
    probabilities: Array
    importance_weights: Array


class ReplayClient:
    """Adds transitions to replay and samples from it. Not safe to share between threads. Close it.

    Args:
      addresses: of each shard, `host:port`, by its index.
      spec: form of the chunks, as every shard has it.
      lanes: environments whose transitions are added side by side.
      seed: of the draws; None takes another one each time.
    """

    def __init__(
        self, addresses: Mapping[int, str], spec: ChunkSpec, *, lanes: int = 1, seed: int | None = None
    ) -> None:
        self.spec = spec
        self._replay = ShardedReplay(lambda: addresses, spec, rng=np.random.default_rng(seed))
        self._writer = ChunkWriter(spec, lanes)
        self._writer_id = f"client-{uuid.uuid4().hex}"
        self._num_sent, self._is_closed = 0, False
        self._newest: list[Transition | None] = [None] * lanes  # whose outcome is not written yet

    def add(self, transition: Transition, *, lane: int = 0, timeout_seconds: float = 60.0) -> None:
        """Adds the next transition of a lane. It can be sampled once its chunk is full, or after `flush`.

        Args:
          lane: which environment it is of.
          timeout_seconds: how long a full chunk may wait for room.
        Raises: ValueError if it does not fit the chunks; ReplayTimeout if there was no room in time.
        """
        shape, dtype = self.spec.frame_shape, self.spec.frame_dtype
        for name, frame in (("frame", transition.frame), ("next_frame", transition.next_frame)):
            if frame.shape != shape or frame.dtype != dtype:
                raise ValueError(f"{name} is {frame.dtype} {frame.shape}: this replay takes {dtype} {shape}")
        if not 0 <= transition.action < self.spec.num_actions:
            raise ValueError(f"action {transition.action} is outside [0, {self.spec.num_actions})")
        chunks = self._push(lane, transition.frame, transition.action, before=self._newest[lane])
        self._newest[lane] = transition
        if transition.terminated or transition.truncated:
            chunks += self._end(lane)
        self._send(chunks, timeout_seconds)

    def flush(self, *, timeout_seconds: float = 60.0) -> None:
        """Sends everything that was added. The next transition of each lane then opens an episode.

        Raises: ReplayTimeout if there was no room in time.
        """
        chunks = [chunk for lane in range(len(self._newest)) for chunk in self._end(lane)]
        self._send([*chunks, *self._writer.flush()], timeout_seconds)

    def sample(
        self,
        batch_size: int,
        *,
        n_step: int = 1,
        stack: int | None = None,
        gamma: float = 0.99,
        clip_rewards: bool = False,
        importance_sampling_exponent: float = 0.0,
        timeout_seconds: float = 60.0,
    ) -> ReplayBatch:
        """Draws transitions from all shards as if they were one table.

        Args:
          n_step: horizon of the returns, up to `spec.lookahead`.
          stack: frames of an observation; by default `spec.history + 1`, the most that there are.
          gamma: discount of a step.
          clip_rewards: clip each reward to [-1, 1] before summing.
          importance_sampling_exponent: beta of the importance weights.
        Raises: ReplayTimeout if the limiter or too little experience held sampling back.
        """
        view = View(n_step=n_step, stack=stack or self.spec.history + 1, gamma=gamma, clip_rewards=clip_rewards)
        drawn = self._replay.sample(
            SampleRequest(
                tables=TABLE,
                batch_size=batch_size,
                view=view,
                importance_sampling_exponent=importance_sampling_exponent,
                timeout_seconds=timeout_seconds,
            )
        )[0]
        batch = batch_of_windows(drawn.windows, view)
        return ReplayBatch(batch, drawn.keys, drawn.probabilities, drawn.importance_weights)

    def update_priorities(self, keys: TransitionKeys, priorities: Array) -> None:
        """Gives sampled transitions new priorities, float [B], above 0; those overwritten meanwhile are dropped."""
        self._replay.update_priorities(TABLE, keys, priorities)

    def stats(self) -> TableStats:
        """Fresh counters, added up and by shard."""
        return self._replay.stats(TABLE)

    def close(self) -> None:
        """Sends everything that was added and closes the connections. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            try:
                self.flush()
            finally:
                self._replay.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._replay.close()

    def _push(
        self, lane: int, frame: Array, action: int, *, before: Transition | None, is_final: bool = False
    ) -> list[Chunk]:
        """Writes one row, which carries the outcome of the transition before it."""
        ended = before is not None and is_final
        rows = LaneRows(
            lane=np.array([lane], np.int32),
            observation=frame[None, None],
            reward=np.array([0.0 if before is None else before.reward], np.float32),
            terminated=np.array([ended and before is not None and before.terminated]),
            truncated=np.array([ended and before is not None and before.truncated]),
            first=np.array([before is None]),
            game_over=np.array([ended]),
            lives=np.zeros(1, np.int32),
        )
        return self._writer.push(rows, np.array([action]))

    def _end(self, lane: int) -> list[Chunk]:
        """Writes the outcome of a lane's newest transition: its next frame is the last that is known of the episode."""
        newest, self._newest[lane] = self._newest[lane], None
        return [] if newest is None else self._push(lane, newest.next_frame, 0, before=newest, is_final=True)

    def _send(self, chunks: list[Chunk], timeout_seconds: float) -> None:
        if chunks:
            data = [encode_chunk(chunk, self.spec, codec="lz4") for chunk in chunks]
            self._replay.insert(
                TABLE,
                data,
                writer_id=self._writer_id,
                first_sequence=self._num_sent,
                timeout_seconds=timeout_seconds,
            )
            self._num_sent += len(data)


def connect_replay(
    addresses: str | Mapping[int, str], spec: ChunkSpec, *, lanes: int = 1, seed: int | None = None
) -> ReplayClient:
    """A client of one shard, or of several by their indexes; the other arguments as of `ReplayClient`."""
    known = {0: addresses} if isinstance(addresses, str) else dict(addresses)
    return ReplayClient(known, spec, lanes=lanes, seed=seed)
