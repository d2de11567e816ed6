"""A learner of CartPole on real edges: replay shards over gRPC, a teacher from a store, files."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.chunk_writer import ChunkWriter
from actors.envs import EnvPoolLanes, chunk_spec
from learner.learner import Learner
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.types import TableConfig
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher
from upcycle.config.run import NetworkConfig, RunConfig
from upcycle.experience.chunks import encode_chunk
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import write_snapshot

BASE: dict[str, Any] = {
    "name": "test",
    "env": {"task": "CartPole-v1", "clip_rewards": False},
    "network": {"kind": "mlp", "hidden": 32},
    "teacher": {"id": "teacher"},
    "replay": {"chunk_steps": 16, "min_size_to_sample": 100, "sampler": "proportional", "error_buffer_steps": 100_000},
    "learner": {"learning_rate": 3e-3, "publish_period": 50, "checkpoint_seconds": 1000.0, "batch_size": 32},
    "offline": {"learner_steps": 300},
}
CHUNKS = chunk_spec(RunConfig.model_validate(BASE).env, 16, 5)


def random_experience() -> list[bytes]:
    """Two thousand random steps of CartPole, as chunks."""
    rng, writer, chunks = np.random.default_rng(0), ChunkWriter(CHUNKS, 4), list[bytes]()
    env = RunConfig.model_validate(BASE).env
    with EnvPoolLanes(env, lanes=4, recv_batch=4, seed=0, threads=1, training=True) as lanes:
        for _ in range(500):
            rows = lanes.recv()
            action = rng.integers(0, 2, 4)
            chunks += [encode_chunk(chunk, CHUNKS) for chunk in writer.push(rows, action)]
            lanes.send(action, rows.lane)
    return chunks


def publish_random_teacher(path: Path) -> Teacher:
    """A network of another shape, with random weights that prefer the side to which the pole leans."""
    torch.manual_seed(7)
    network = build_network(NetworkConfig(kind="mlp", hidden=64), frame_shape=(4,), stack=1, num_actions=2)
    write_snapshot(path / "weights", to_numpy(network.state_dict()), {})
    store = TeacherStore(path / "store", bundled=None)
    record = store.publish(
        NewTeacher(
            name="teacher",
            env=RunConfig.model_validate(BASE).env,
            network=NetworkConfig(kind="mlp", hidden=64),
            frame_shape=(4,),
            frame_stack=1,
            num_actions=2,
            weights=path / "weights",
        )
    )
    return load_teacher(record, store)


@contextmanager
def serve_tables(tables: Sequence[TableConfig]) -> Generator[ShardedReplay]:
    """A client of two new shards with these tables."""
    shards = [
        ReplayShard(index=k, spec=CHUNKS, tables=tables, log=None, metrics=Metrics("replay", "test", k))
        for k in range(2)
    ]
    addresses = {shard.index: shard.start() for shard in shards}
    client = ShardedReplay(lambda: addresses, CHUNKS, rng=np.random.default_rng(0))
    try:
        yield client
    finally:
        client.close()
        for shard in shards:
            shard.stop(0.5)


@contextmanager
def replay(table: str, chunks: list[bytes]) -> Generator[ShardedReplay]:
    """Two shards whose `table` holds `chunks`."""
    tables = [
        TableConfig("online", 4000, sampler="proportional", annotation_width=2),
        TableConfig("teacher", 4000, annotation_width=2),
    ]
    with serve_tables(tables) as client:
        client.insert(table, chunks, writer_id="test", first_sequence=0, timeout_seconds=20)
        yield client


def new_learner(
    folder: RunFolder,
    client: ShardedReplay,
    teachers: Sequence[Teacher] = (),
    stop: StopSignal | None = None,
    **options: Any,
) -> tuple[Learner, Metrics]:
    """A learner of the run in `folder`, and its metrics."""
    metrics = Metrics("learner", "test")
    worker = Learner(
        folder.config,
        CHUNKS,
        folder=folder,
        replay=client,
        teachers=teachers,
        metrics=metrics,
        stop=stop or StopSignal(),
        **options,
    )
    return worker, metrics


def run_folder(path: Path, **changes: object) -> RunFolder:
    """A new run in `path` with `BASE` for its configuration, apart from `changes`."""
    return RunFolder.create(path / "run", RunConfig.model_validate(BASE | changes))
