"""Memory per transition of every tier, and what compression costs, on frames of random play.

    .venv/bin/python -m benchmarks.tiers --game pong|mspacman --json

Times are processor time of this thread: other work on the machine hardly changes them.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, get_args

import numpy as np

from actors.chunk_writer import ChunkWriter
from actors.envs import EnvPoolLanes, env_spec
from replay_service.storage.packed_windows import PackedWindows
from replay_service.table.table import Table
from replay_service.table.types import TableConfig, Tier
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, Codec, decode_chunk, encode_chunk
from upcycle.experience.windows import View
from upcycle.runs.runtime import keep_heap

GAMES: Final = {"pong": "Pong-v5", "mspacman": "MsPacman-v5"}
_LANES: Final = 8


def play(game: str, *, steps: int, seed: int = 1) -> tuple[ChunkSpec, list[Chunk]]:
    """Chunks of `steps` agent steps of each of 8 lanes of a random policy that keeps an action for four steps or so."""
    config = EnvConfig(task=GAMES[game])
    env = env_spec(config)
    spec = ChunkSpec(env.frame_shape, env.frame_dtype, env.num_actions, history=env.stack - 1, lookahead=5)
    writer, chunks, rng = ChunkWriter(spec, _LANES), list[Chunk](), np.random.default_rng(seed)
    action = np.zeros(_LANES, np.int64)
    with EnvPoolLanes(config, lanes=_LANES, recv_batch=_LANES, seed=seed, threads=1, training=True) as lanes:
        for _ in range(steps):
            rows = lanes.recv()
            action = np.where(rng.random(_LANES) < 0.25, rng.integers(env.num_actions, size=_LANES), action)
            lanes.send(action[rows.lane], rows.lane)
            chunks += writer.push(rows, action[rows.lane])
    return spec, chunks


def fill(tier: Tier, spec: ChunkSpec, chunks: list[Chunk], *, cache_bytes: int = 0) -> Table:
    """A proportional table that these chunks fill."""
    capacity = len(chunks) * spec.steps
    config = TableConfig("online", capacity, sampler="proportional", tier=tier, cold_cache_bytes=cache_bytes)
    table = Table(config, spec, rng=np.random.default_rng(0))
    for sequence, chunk in enumerate(chunks):
        table.insert(chunk, writer_id="benchmark", sequence=sequence)
    return table


def measure(game: str, *, steps: int) -> dict[str, str | float]:
    """All figures of one game. A batch has one transition of each chunk, so that cold chunks serve one draw each."""
    spec, chunks = play(game, steps=steps)
    num_steps, batch, view, figures = len(chunks) * spec.steps, len(chunks), View(), dict[str, float]()
    for codec in get_args(Codec):
        encoded = [encode_chunk(chunk, spec, codec=codec) for chunk in chunks]
        encode, decode = partial(_encode_all, chunks, spec, codec), partial(_decode_all, encoded, spec)
        figures[f"encode_{codec}_us_per_step"] = _cost(encode, num_steps)
        figures[f"decode_{codec}_us_per_step"] = _cost(decode, num_steps)
        figures[f"chunk_{codec}_bytes_per_step"] = sum(map(len, encoded)) / num_steps
    packed_chunks = _decode_all([encode_chunk(chunk, spec, codec="lz4") for chunk in chunks], spec)
    for tier in get_args(Tier):
        table = fill(tier, spec, packed_chunks)
        figures[f"{tier}_bytes_per_transition"] = table.memory_bytes / num_steps
        figures[f"{tier}_insert_us_per_step"] = _cost(partial(fill, tier, spec, packed_chunks), num_steps, 1)
        figures[f"{tier}_sample_us_per_item"] = _cost(partial(table.sample, batch, view), batch)
        packed = table.sample(batch, view, packed=True).packed
        if packed is not None:
            columns, blob = packed.columns, packed.blob
            out = np.empty((batch, view.stack + view.n_step, *spec.frame_shape), spec.frame_dtype)
            figures[f"{tier}_packed_sample_us_per_item"] = _cost(partial(_serve, table, batch, view), batch)
            figures[f"{tier}_packed_decode_us_per_item"] = _cost(
                partial(_receive, packed.codec, columns, blob, view, out), batch
            )
            figures[f"{tier}_packed_bytes_per_item"] = (
                len(blob) + sum(column.nbytes for column in columns.values())
            ) / batch
    return {"game": game, "transitions": num_steps, **{name: round(value, 2) for name, value in figures.items()}}


def _encode_all(chunks: list[Chunk], spec: ChunkSpec, codec: Codec) -> list[bytes]:
    return [encode_chunk(chunk, spec, codec=codec) for chunk in chunks]


def _decode_all(encoded: list[bytes], spec: ChunkSpec) -> list[Chunk]:
    return [decode_chunk(data, spec) for data in encoded]


def _serve(table: Table, batch: int, view: View) -> bytes:
    packed = table.sample(batch, view, packed=True).packed
    assert packed is not None
    return packed.blob


def _receive(codec: str, columns: Mapping[str, Array], blob: bytes, view: View, out: Array) -> None:
    PackedWindows.from_wire(codec, columns, blob, view).unpack_into(out)


def _cost(work: Callable[[], object], items: int, repeats: int = 5) -> float:
    """Processor time of one item, in microseconds; the least of some repeats."""
    costs = list[float]()
    for _ in range(repeats):
        start = time.thread_time()
        work()
        costs.append(time.thread_time() - start)
    return 1e6 * min(costs) / items


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=sorted(GAMES), default="pong")
    parser.add_argument("--steps", type=int, default=640, help="agent steps of each of 8 lanes")
    parser.add_argument("--json", action="store_true", help="one line instead of a table")
    arguments = parser.parse_args()
    keep_heap()
    figures = measure(arguments.game, steps=arguments.steps)
    print(json.dumps(figures) if arguments.json else "\n".join(f"{name:32} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
