"""Ours, under the same protocol: one shard process, one client; a variant is a tier and a way, "raw/shared_memory"."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Final, cast

from benchmarks.cluster import Cluster, Way, travels_by
from benchmarks.measure import Window
from benchmarks.operations import (
    Writer,
    acting,
    counted_bytes_per_item,
    draw,
    fill,
    inserting,
    prepared,
    sampling,
    updating,
)
from benchmarks.peers.frame_log import BATCH_SIZES, SMALL_SHARE, facts_line, versions
from benchmarks.workers import serve
from benchmarks.workload import Play
from replay_service.table.types import Tier, Transport
from upcycle.runs.runtime import configure_logging, keep_heap

_PER_REQUEST: Final = 4  # batches drawn together, as the learner does
_IN_FLIGHT: Final = 2  # requests at a time


def main(values: list[str]) -> None:
    """Fills the table, then measures on command."""
    keep_heap()
    configure_logging("benchmark", "upcycle", file=None)
    folder, stored = Path(values[0]), int(values[1])
    tier, way = cast(tuple[Tier, Way], values[2].split("/"))
    transport: Transport = "auto" if way == "shared_memory" else way
    play = Play.load(folder)
    assert play is not None, "whoever starts this process has saved the play"
    spec, chunks = prepared(play)
    small = stored // SMALL_SHARE
    with Cluster(spec, tier=tier, capacity=stored) as cluster:
        with Cluster(spec, tier=tier, capacity=small) as other:
            for filled in (other, cluster):
                fill(filled, chunks, stored, compressed=True)
            bytes_per_item = (cluster.resident_bytes() - other.resident_bytes()) / (stored - small)
        found, _ = travels_by(cluster, transport, lambda client: len(draw(client, BATCH_SIZES[0]).probabilities))
        if found != way:
            raise RuntimeError(f"windows of the {tier} tier come by {found} here, not by {way}")
        with closing(cluster.open_client(transport)) as client:
            writer = Writer(client, spec, chunks, compressed=True)
            windows: dict[str, Window] = {
                "insert": inserting(writer, cluster.pids),
                "act": acting(writer, spec, play, cluster.pids),
            }
            for size in BATCH_SIZES:
                sizes = {"batch_size": size, "batches_per_request": _PER_REQUEST}
                windows[f"sample/{size}"] = sampling(client, cluster.pids, in_flight=_IN_FLIGHT, **sizes)
                windows[f"update/{size}"] = updating(client, cluster.pids, **sizes)
            facts = facts_line(
                versions=versions("numpy", "grpcio", "lz4"),
                note=f"one shard process, {tier} tier, {way.replace('_', ' ')}; {_PER_REQUEST} batches a request, "
                f"{_IN_FLIGHT} requests at a time; frames are sent in LZ4 blocks",
                # The heap of the process moves by more than a cold table takes; the difference may be negative.
                bytes_per_item=None if tier == "cold" else bytes_per_item,
                counted_bytes=counted_bytes_per_item(tier, spec, chunks, stored=stored),
                operations=list(windows),
            )
            serve(windows, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
