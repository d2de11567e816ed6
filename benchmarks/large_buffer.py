"""A buffer of 50 million Atari frames in one shard: `python -m benchmarks.large_buffer --game mspacman --json`.

50 million frames are 12.5 million transitions of four frames each, 88 GB as they are. They are inserted over gRPC, as
actors send them, into a table of the tier cold; then windows are sampled. Prints one line: transitions stored, insert
rate, memory of the shard's process (all of it, with Python and its libraries), bytes of that a transition, and the rate
of prioritised sampling.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.cluster import TABLE, Cluster
from benchmarks.measure import median, resident_bytes
from benchmarks.operations import prepared, sampling
from benchmarks.workload import GAMES, Game, encoded, recorded
from upcycle.runs.runtime import configure_logging, keep_heap

_TRANSITIONS: Final = 12_500_000
_CHUNKS_PER_INSERT: Final = 16
_TIMEOUT_SECONDS: Final = 60.0


def measure(
    game: Game, folder: Path, *, transitions: int, cold_folder: Path | None, seconds: float
) -> dict[str, float | str]:
    """Fills a shard and samples from it; with a folder, frames lie in files there."""
    spec, chunks = prepared(recorded(game, folder))
    sizes = [chunk.num_transitions(spec) for chunk in chunks]
    data = [encoded(chunk, spec, compressed=True) for chunk in chunks]  # once: what is measured is the shard
    capacity = -(-transitions // min(sizes)) * spec.steps
    with (
        Cluster(spec, tier="cold", capacity=capacity, cold_folder=cold_folder) as cluster,
        closing(cluster.open_client("auto")) as client,
    ):
        stored, start, writer = 0, time.monotonic(), uuid.uuid4().hex
        numbers = itertools.cycle(range(len(chunks)))
        for first in itertools.count(step=_CHUNKS_PER_INSERT):
            if stored >= transitions:
                break
            chosen = list(itertools.islice(numbers, _CHUNKS_PER_INSERT))
            client.insert(
                TABLE,
                [data[number] for number in chosen],
                writer_id=writer,
                first_sequence=first,
                timeout_seconds=_TIMEOUT_SECONDS,
            )
            stored += sum(sizes[number] for number in chosen)
            if first % 16_000 == 0:
                print(f"  {stored:,} transitions", file=sys.stderr)
        filled = time.monotonic() - start
        window = sampling(client, cluster.pids, batch_size=512, batches_per_request=4, in_flight=1)
        rates = [window(seconds / 3) for _ in range(3)]
        (pid,) = cluster.pids
        return {
            "game": game,
            "frames_on_disk": cold_folder is not None,
            "transitions": stored,
            "insert_items_per_s": round(stored / filled),
            "shard_gib": round(resident_bytes(pid) / (1 << 30), 2),
            "shard_bytes_per_item": round(resident_bytes(pid) / stored, 1),
            "sample_items_per_s": round(median(rate.items_per_s for rate in rates)),
        }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="mspacman")
    parser.add_argument("--transitions", type=int, default=_TRANSITIONS)
    parser.add_argument("--cold-folder", type=Path, help="keep frames in files there instead of in memory")
    parser.add_argument("--seconds", type=float, default=6.0, help="of sampling")
    parser.add_argument("--workload", type=Path, help="folder in which plays are kept (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="one line instead of a table")
    arguments = parser.parse_args()
    keep_heap()
    configure_logging("benchmark", "large_buffer", file=None)
    with tempfile.TemporaryDirectory(prefix="upcycle-workload-") as scratch:
        figures = measure(
            arguments.game,
            arguments.workload or Path(scratch),
            transitions=arguments.transitions,
            cold_folder=arguments.cold_folder,
            seconds=arguments.seconds,
        )
    print(json.dumps(figures) if arguments.json else "\n".join(f"{name:24} {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
