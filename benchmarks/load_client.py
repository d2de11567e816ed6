"""Clients of running shards in a process of their own, a `benchmarks.workers.Worker`: `... load_client LOAD.json`.

The file holds {"endpoints": {INDEX: ADDRESS}, "spec": ChunkSpec, "play": FOLDER, "clients": how many, each with
connections of its own, "batch_size", "batches_per_request", "seed"}. Commands: "sample"; "learn", which
writes priorities back as well; "insert"; "insert_paced" where a limiter may hold the writers back.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cluster import connect
from benchmarks.measure import Rate, timed
from benchmarks.operations import Writer, paced_sampler
from benchmarks.workers import serve
from benchmarks.workload import Play, chunks_of
from replay_service.client.sharded_replay import ShardedReplay
from upcycle.experience.chunks import ChunkSpec
from upcycle.runs.runtime import configure_logging, keep_heap


def main(path: Path) -> None:
    """Connects, then measures on command."""
    keep_heap()
    configure_logging("benchmark", "load", file=None)
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    spec = ChunkSpec.from_json(values["spec"])
    endpoints = {int(index): str(address) for index, address in values["endpoints"].items()}
    clients = list[ShardedReplay]()
    for number in range(int(values["clients"])):
        client = connect(endpoints, spec, "auto", seed=int(values["seed"]) + number)
        assert client is not None, "every build has a client"
        clients.append(client)
    writers = list[Writer]()

    def insert(seconds: float, *, paced: bool = False) -> Rate:
        if not writers:  # learners need no frames
            play = Play.load(Path(values["play"]))
            assert play is not None, "whoever starts this process has saved the play"
            chunks = chunks_of(play, spec)
            writers.extend(Writer(client, spec, chunks, compressed=False) for client in clients)
        steps = [writer.insert_paced if paced else writer.insert_next for writer in writers]
        return timed(*steps, seconds=seconds)

    def sample(seconds: float, *, update: bool = False) -> Rate:
        sizes = int(values["batch_size"]), int(values["batches_per_request"])
        return timed(*(paced_sampler(client, *sizes, update=update) for client in clients), seconds=seconds)

    windows = {
        "insert": insert,
        "insert_paced": partial(insert, paced=True),
        "sample": sample,
        "learn": partial(sample, update=True),
    }
    try:
        serve(windows, {})
    finally:
        for client in clients:
            client.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
