"""Replay shards as processes, and clients of them, restricted to what is to be measured.

Parts of the service that a build does not have yet are found out by asking for them: `supports_tier`, and an
`open_client` that returns None. A figure that needs one is then null, never the figure of something else.
"""

import dataclasses
import inspect
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import numpy as np

from benchmarks.measure import cpu_seconds, resident_bytes
from benchmarks.workers import ROOT
from benchmarks.workload import PRIORITY_EXPONENT
from replay_service.sharding import ShardedReplay
from replay_service.types import TableConfig
from upcycle.chunks import ChunkSpec

Tier = Literal["raw", "warm", "cold"]
Transport = Literal["any", "shared_memory", "tcp", "unix"]
TABLE: Final = "online"
_STOP_SECONDS: Final = 20.0


def supports_tier(tier: Tier) -> bool:
    """Whether this build can keep a table that way."""
    return tier == "raw" or any(field.name == "tier" for field in dataclasses.fields(TableConfig))


@dataclass(frozen=True, slots=True)
class Shard:
    """One running shard: its process, its TCP address, and its unix socket's if it has one."""

    process: "subprocess.Popen[str]"
    tcp: str
    unix: str | None


class Cluster:
    """Shards that hold one table of `capacity` transitions together, prioritised, without a limiter. Close it."""

    def __init__(self, spec: ChunkSpec, *, tier: Tier = "raw", capacity: int, shards: int = 1) -> None:
        self.spec = spec
        self._scratch = tempfile.TemporaryDirectory(prefix="upcycle-bench-")
        self._shards = list[Shard]()
        try:
            for index in range(shards):
                self._shards.append(self._start(index, tier, -(-capacity // shards)))
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

    def cpu_seconds(self) -> list[float]:
        """CPU time of each shard so far."""
        return list(map(cpu_seconds, self.pids))

    def endpoints(self, transport: Transport) -> dict[int, str] | None:
        """Addresses to give a client; None if the shards do not listen that way."""
        chosen = [shard.unix if transport == "unix" else shard.tcp for shard in self._shards]
        return {index: address for index, address in enumerate(chosen) if address} if all(chosen) else None

    def open_client(self, transport: Transport, *, seed: int = 0) -> ShardedReplay | None:
        """A client that uses this transport and no other; None if this build has it not. The caller closes it."""
        endpoints = self.endpoints(transport)
        return None if endpoints is None else connect(endpoints, self.spec, transport, seed=seed)

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

    def _start(self, index: int, tier: Tier, capacity: int) -> Shard:
        table: dict[str, Any] = {
            "name": TABLE,
            "capacity_steps": capacity,
            "sampler": "proportional",
            "priority_exponent": PRIORITY_EXPONENT,
        }
        if tier != "raw":
            table["tier"] = tier
        path = Path(self._scratch.name) / f"shard-{index}.json"
        socket = path.with_suffix(".sock")
        values = {"index": index, "spec": self.spec.to_json(), "tables": [table], "env": {}, "unix": str(socket)}
        path.write_text(json.dumps(values), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "replay_service", str(path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(_STOP_SECONDS)
            raise RuntimeError(f"shard {index} of tier {tier} did not start; its reason is above")
        ready = json.loads(line)
        return Shard(process, str(ready["address"]), ready.get("unix"))


def connect(endpoints: dict[int, str], spec: ChunkSpec, transport: Transport, *, seed: int = 0) -> ShardedReplay | None:
    """A client of shards at these addresses, restricted to one transport; None if this build has it not."""
    parameters = inspect.signature(ShardedReplay).parameters
    restriction = _restriction(transport, list(parameters))
    if restriction is None:
        return None
    # What a build may lack is unknown to the type checker as well.
    make = cast(Any, ShardedReplay)
    return cast(ShardedReplay, make(lambda: endpoints, spec, rng=np.random.default_rng(seed), **restriction))


def _restriction(transport: Transport, parameters: Sequence[str]) -> dict[str, Any] | None:
    """Arguments of `ShardedReplay` that leave it one transport, given the names that it knows."""
    shared = transport == "shared_memory"
    if transport == "any":
        return {}
    if "transports" in parameters:
        return {"transports": ("shared_memory",) if shared else ("grpc",)}
    if "shared_memory" in parameters:
        return {"shared_memory": shared}
    return None if shared else {}
