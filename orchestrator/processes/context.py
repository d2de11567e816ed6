"""What the loop of a process is built from: all of it comes from the run's folder."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from orchestrator.baselines import teachers_of
from orchestrator.processes.shard_set import ShardSet
from replay_service.client.sharded_replay import ShardedReplay
from upcycle.config.run import RunConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import StopSignal, seed_for
from upcycle.runs.tracker import Tracker

_SHARDS_SECONDS: Final = 300.0  # they may have a long log to read
_POLL_SECONDS: Final = 0.2

Role = Literal["replay", "learner", "actor", "evaluator"]

Name = tuple[Role, int]
"""Role and index of a process, or of the first process of a unit."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every role is built from.

    Attributes:
      host: address of this machine that the run's other processes can reach.
      tracker: None if the run announced none.
      resources: closed in reverse order when the process ends.
    """

    folder: RunFolder
    config: RunConfig
    manifest: Record
    spec: ChunkSpec
    index: int
    host: str
    metrics: Metrics
    stop: StopSignal
    tracker: Tracker | None
    resources: ExitStack

    def replay(self, role: Role) -> ShardedReplay:
        """A client of all shards, wherever they are at the time of each call."""
        rng = np.random.default_rng(seed_for(self.config.seed, f"{role}/replay", self.index))
        replay = ShardedReplay(
            lambda: self.folder.endpoints("replay"),
            self.spec,
            rng=rng,
            metrics=self.metrics,
            packed=self.config.replay.wire != "raw",
        )
        self.resources.callback(replay.close)
        return replay

    @property
    def teachers(self) -> list[Record]:
        """What the manifest says of the run's teachers: id, name, score, store and log; none from scratch."""
        return teachers_of(self.manifest)

    def shards(self) -> ShardSet:
        """The replay shards that the run has now."""
        return ShardSet.read(self.folder, self.config)

    def await_shards(self) -> None:
        """Returns once every shard has announced itself, or when stopped. Raises: TimeoutError after five minutes."""
        deadline = time.monotonic() + _SHARDS_SECONDS
        while missing := set(self.shards().taking) - set(self.folder.endpoints("replay")):
            self.metrics.waits.waiting("shards", f"{_named(missing)} not announced")
            if time.monotonic() > deadline:
                raise TimeoutError(f"replay shards {sorted(missing)} have not announced themselves")
            if self.stop.wait(_POLL_SECONDS):
                return
        self.metrics.waits.waiting("start", "its parts are being built")


def _named(shards: set[int]) -> str:
    return ", ".join(f"replay-{index}" for index in sorted(shards))
