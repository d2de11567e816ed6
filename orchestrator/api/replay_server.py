"""A replay shard in this process."""

from pathlib import Path
from typing import Literal, Self

import numpy as np

from orchestrator.api.replay_client import TABLE, ReplayClient
from replay_service.server.shard import ReplayShard
from replay_service.table.types import TableConfig
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogWriter


class ReplayServer:
    """One replay shard that this process serves, in threads. `start_replay` makes it; stop it.

    Attributes:
      address: `host:port`.
      spec: form of its chunks, which clients in other processes need (`connect_replay`).
    """

    def __init__(self, shard: ReplayShard, log: ExperienceLogWriter | None) -> None:
        self._shard, self._log = shard, log
        self.spec, self.address = shard.spec, shard.start()

    def client(self, *, lanes: int = 1, seed: int | None = None) -> ReplayClient:
        """A client of this server; arguments as of `ReplayClient`."""
        return ReplayClient({0: self.address}, self.spec, lanes=lanes, seed=seed)

    def stop(self) -> None:
        """Refuses new calls, lets calls under way finish, and closes the log. Safe to call twice."""
        self._shard.stop()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_replay(
    *,
    frame_shape: tuple[int, ...],
    num_actions: int,
    frame_dtype: Literal["uint8", "float32"] = "float32",
    max_stack: int = 1,
    max_n_step: int = 1,
    chunk_steps: int = 64,
    capacity: int = 100_000,
    sampler: Literal["uniform", "proportional"] = "uniform",
    priority_exponent: float = 0.5,
    samples_per_insert: float | None = None,
    error_buffer: int = 1_000,
    min_size_to_sample: int = 1,
    log: str | Path | None = None,
    env: EnvConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int | None = None,
) -> ReplayServer:
    """Starts a replay shard with one table.

    Args:
      frame_shape: (H, W) of an image, (D,) of a vector.
      num_actions: size of the discrete action set.
      frame_dtype: "uint8" for images, "float32" for vectors.
      max_stack: frames of the largest observation that can be sampled.
      max_n_step: the longest return that can be sampled.
      chunk_steps: transitions sent and stored together.
      capacity: transitions kept; the oldest chunk leaves first.
      sampler: "uniform", or "proportional" to priority^priority_exponent.
      samples_per_insert: transitions sampled per transition inserted; None lets both run freely.
      error_buffer: inserts that both sides may be apart from that ratio.
      min_size_to_sample: transitions stored before the first is sampled.
      log: folder of an experience log that keeps what is accepted; None keeps none.
      env: what the log says about its environment.
      host, port: where to listen; port 0 takes a free one.
      seed: of the draws; None takes another one each time.
    Raises: UserError for settings that cannot work, or a port that is taken.
    """
    spec = ChunkSpec(
        frame_shape=frame_shape,
        frame_dtype=frame_dtype,
        num_actions=num_actions,
        steps=chunk_steps,
        history=max_stack - 1,
        lookahead=max_n_step,
    )
    table = TableConfig(
        name=TABLE,
        capacity_steps=capacity,
        sampler=sampler,
        priority_exponent=priority_exponent,
        samples_per_insert=samples_per_insert,
        error_buffer_steps=error_buffer if samples_per_insert is not None else 0,
        min_size_to_sample=min_size_to_sample,
    )
    writer = None if log is None else ExperienceLogWriter.open(Path(log), spec, env or EnvConfig())
    try:
        rng = np.random.default_rng(seed)
        shard = ReplayShard(index=0, spec=spec, tables=[table], log=writer, rng=rng, host=host, port=port)
        return ReplayServer(shard, writer)
    except BaseException:
        if writer is not None:
            writer.close()
        raise
