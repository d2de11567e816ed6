"""Replay shards as processes, and clients of them, restricted to what is to be measured."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np

from benchmarks.measure import cpu_seconds, private_bytes, resident_bytes
from benchmarks.relay import CountingRelay
from benchmarks.workers import ROOT
from benchmarks.workload import PRIORITY_EXPONENT
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import TableConfig, Tier, Transport
from upcycle.experience.chunks import ChunkSpec

TABLE: Final = "online"
Way = Literal["shared_memory", "unix", "tcp"]
_STOP_SECONDS: Final = 20.0
_RELAYED_BATCHES: Final = 20
_LEAST_WINDOW_BYTES: Final = 200  # keys and counters take a few dozen bytes, the most compressible window far more


@dataclass(frozen=True, slots=True)
class Shard:
    """One running shard: its process and its address."""

    process: "subprocess.Popen[str]"
    address: str


class Cluster:
    """Shards that hold one table of `capacity` transitions together, prioritised. Close it.

    Args:
      samples_per_insert: the limiter's ratio; None is no limiter.
      error_buffer: inserts that both sides may be apart from it, over all shards.
      min_size_to_sample: transitions stored before the first is sampled, over all shards.
      log: folder in which each shard keeps a log of what it accepts; None keeps none.
      cold_folder: where the tier cold keeps frames in files; None keeps them in memory.
      others: further tables, each shard's share of them.
    """

    def __init__(
        self,
        spec: ChunkSpec,
        *,
        tier: Tier = "raw",
        capacity: int,
        shards: int = 1,
        samples_per_insert: float | None = None,
        error_buffer: int = 0,
        min_size_to_sample: int = 1,
        log: Path | None = None,
        cold_folder: Path | None = None,
        others: Sequence[TableConfig] = (),
    ) -> None:
        self.spec, self._log = spec, log
        self._others = [asdict(table) for table in others]
        self._table: dict[str, Any] = {
            "name": TABLE,
            "capacity_steps": -(-capacity // shards),
            "sampler": "proportional",
            "priority_exponent": PRIORITY_EXPONENT,
            "tier": tier,
            "cold_folder": None if cold_folder is None else str(cold_folder),
            "samples_per_insert": samples_per_insert,
            "error_buffer_steps": error_buffer // shards,
            "min_size_to_sample": max(min_size_to_sample // shards, 1),
        }
        self._scratch = tempfile.TemporaryDirectory(prefix="upcycle-bench-")
        self._shards = list[Shard]()
        try:
            for index in range(shards):
                self._shards.append(self._start(index))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids of the shards."""
        return [shard.process.pid for shard in self._shards]

    def resident_bytes(self) -> int:
        """Memory of all shards."""
        return sum(map(resident_bytes, self.pids))

    def private_bytes(self) -> int:
        """Memory that the shards have for themselves: messages, threads, indices; not the arenas, which are shared."""
        return sum(map(private_bytes, self.pids))

    def cpu_seconds(self) -> list[float]:
        """CPU time of each shard so far."""
        return list(map(cpu_seconds, self.pids))

    def endpoints(self) -> dict[int, str]:
        """Addresses to give a client."""
        return {index: shard.address for index, shard in enumerate(self._shards)}

    def open_client(self, transport: Transport, *, seed: int = 0) -> ShardedReplay:
        """A client that takes no quicker way than this. The caller closes it."""
        return connect(self.endpoints(), self.spec, transport, seed=seed)

    def close(self) -> None:
        """Stops the shards. Safe to call twice."""
        for shard in self._shards:
            shard.process.send_signal(signal.SIGTERM)
        for shard in self._shards:
            try:
                shard.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                shard.process.kill()
                shard.process.wait()
            if shard.process.stdout is not None:
                shard.process.stdout.close()
        self._shards.clear()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        self.close()

    def _start(self, index: int) -> Shard:
        path = Path(self._scratch.name) / f"shard-{index}.json"
        values: dict[str, Any] = {
            "index": index,
            "spec": self.spec.to_json(),
            "tables": [self._table, *self._others],
            "env": {},
        }
        if self._log is not None:
            values["log"] = str(self._log / f"shard-{index}")
        path.write_text(json.dumps(values), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "replay_service", str(path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(_STOP_SECONDS)
            raise RuntimeError(f"shard {index} of tier {self._table['tier']} did not start; its reason is above")
        ready = json.loads(line)
        return Shard(process, str(ready["address"]))


def connect(endpoints: dict[int, str], spec: ChunkSpec, transport: Transport, *, seed: int = 0) -> ShardedReplay:
    """A client of shards at these addresses that takes no quicker way than `transport`."""
    return ShardedReplay(lambda: endpoints, spec, rng=np.random.default_rng(seed), transport=transport)


def travels_by(cluster: Cluster, transport: Transport, draw: Callable[[ShardedReplay], int]) -> tuple[Way, float]:
    """Which way windows really come to a client, and the bytes that each costs the wire, framing and requests included.

    A client takes the quickest way allowed that works here, so another one could pass for it unnoticed. This one draws
    from the first shard through a relay that counts: what does not pass it came by a Unix socket, or was read from
    memory that has been mapped meanwhile.

    Args:
      draw: draws a batch and returns its transitions.
    """
    segments = _mapped_segments()
    with CountingRelay(cluster.endpoints()[0]) as relay:
        client = connect({0: relay.address}, cluster.spec, transport)
        try:
            draw(client)  # the connection, the counters
            before, items = relay.num_bytes, 0
            for _ in range(_RELAYED_BATCHES):
                items += draw(client)
            bytes_per_item = (relay.num_bytes - before) / items
            mapped = _mapped_segments() > segments
        finally:
            client.close()
    if mapped:
        return "shared_memory", bytes_per_item
    return ("unix" if bytes_per_item < _LEAST_WINDOW_BYTES else "tcp"), bytes_per_item


def _mapped_segments() -> int:
    """Shared segments of shards that this process has mapped."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count("memfd:upcycle-replay")
