"""Small chunks and shards for tests of the replay service."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.types import TableConfig, Transport
from replay_service.wire import replay_pb2
from replay_service.wire.codec import view_to_message
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics

SPEC = ChunkSpec(frame_shape=(2, 2), frame_dtype="uint8", num_actions=4, steps=8, history=1, lookahead=2)
VIEW = View(n_step=1, stack=2, gamma=0.9)
ENV = EnvConfig()


def make_chunk(
    number: int, *, spec: ChunkSpec = SPEC, priorities: Sequence[float] | Array | None = None, rows: int | None = None
) -> Chunk:
    """A chunk out of the middle of an endless episode; every frame holds `number`, so does `policy_version`.

    Args:
      priorities: of the usable rows; None is 1 for each.
    """
    rows = spec.rows if rows is None else rows
    usable = np.ones(spec.steps) if priorities is None else np.asarray(priorities)
    columns: dict[str, Array] = {name: np.zeros(rows, dtype) for name, dtype in COLUMNS.items()}
    columns["priority"][spec.history : spec.history + spec.steps] = usable[: rows - spec.history]
    columns["policy_version"][:] = number
    columns["reward"][:] = number % 7
    return Chunk(np.full((rows, *spec.frame_shape), number % 256, spec.frame_dtype), columns)


def make_data(number: int, *, priorities: Sequence[float] | Array | None = None) -> bytes:
    return encode_chunk(make_chunk(number, priorities=priorities), SPEC)


def table_config(name: str = "online", **changes: Any) -> TableConfig:
    """A small proportional table without a limiter, unless `changes` says otherwise."""
    return replace(TableConfig(name, capacity_steps=80, sampler="proportional", priority_exponent=1.0), **changes)


@contextmanager
def running_shards(
    tables: Sequence[TableConfig],
    *,
    count: int = 1,
    logs: Mapping[int, ExperienceLogWriter] | None = None,
    shared_memory: bool = True,
    seed: int | None = None,
) -> Generator[tuple[list[ReplayShard], dict[int, str]]]:
    """Shards in this process, and a mapping of their addresses that tests may change."""
    shards, addresses = list[ReplayShard](), dict[int, str]()
    try:
        for index in range(count):
            shard = ReplayShard(
                index=index,
                spec=SPEC,
                tables=tables,
                log=(logs or {}).get(index),
                metrics=Metrics("replay", "test", index),
                shared_memory=shared_memory,
                rng=np.random.default_rng([seed, index]) if seed is not None else None,
            )
            shards.append(shard)
            addresses[index] = shard.start()
        yield shards, addresses
    finally:
        for shard in shards:
            shard.stop(grace_seconds=0.5)


@contextmanager
def connected(
    addresses: Mapping[int, str], *, metrics: Metrics | None = None, seed: int = 0, transport: Transport = "auto"
) -> Generator[ShardedReplay]:
    """A client of whatever `addresses` holds at the time."""
    replay = ShardedReplay(
        lambda: addresses, SPEC, rng=np.random.default_rng(seed), metrics=metrics, transport=transport
    )
    try:
        yield replay
    finally:
        replay.close()


def sample_request(table: str, batch_size: int, *, view: View = VIEW, packed: bool = False) -> replay_pb2.SampleRequest:
    return replay_pb2.SampleRequest(table=table, batch_size=batch_size, view=view_to_message(view), packed=packed)


def guarded(work: Callable[[], None], failures: list[BaseException]) -> Callable[[], None]:
    """The work of a thread whose failure the test is to see."""

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    return run
