"""The longest pause while experience is written to disk: `python -m benchmarks.pauses`.

One shard process logs everything it accepts, which is what a checkpoint of replay is here: it never stops to make one.
Meanwhile one thread of this process inserts and another samples; a pause is the time that one of their calls takes. The
same without a log stands beside it, since a busy machine makes pauses too. The shard seals segments of the log (forces
them to disk) on the way.

With the environment of `benchmarks/peers/requirements.txt`, a table of Reverb is filled with as many items and saved,
which stops all its requests for that time.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.cluster import TABLE, Cluster
from benchmarks.measure import Disturbance
from benchmarks.operations import draw
from benchmarks.workers import PEERS_PYTHON, Worker, python_module
from benchmarks.workload import GAMES, Play, chunks_of, encoded, place_of, recorded
from upcycle.runs.runtime import configure_logging, keep_heap

BOUND_SECONDS: Final = 0.05
_STORED: Final = 100_000  # transitions that the table holds; the log keeps all
_CHUNKS_PER_INSERT: Final = 4
_BATCH_SIZE: Final = 32  # a small one: its own work is no pause
_TIMEOUT_SECONDS: Final = 60.0

Row = dict[str, Any]


def measured(play: Play, *, transitions: int, log: Path | None) -> Row:
    """Inserts and samples side by side until so many transitions have gone in, and says how long their calls took."""
    spec = play.spec()
    chunks = chunks_of(play, spec)
    size = _CHUNKS_PER_INSERT
    bulks = [chunks[at : at + size] for at in range(0, len(chunks) - size, size)]
    # Encoded once: a pause is what the shard makes, and not this process.
    upcoming = itertools.cycle([[encoded(chunk, spec, compressed=True) for chunk in bulk] for bulk in bulks])
    with (
        Cluster(spec, tier="warm", capacity=_STORED, log=log) as cluster,
        closing(cluster.open_client("auto")) as writer,
        closing(cluster.open_client("auto")) as learner,
    ):
        sequence = itertools.count(step=size)

        def insert() -> None:
            writer.insert(
                TABLE, next(upcoming), writer_id="w", first_sequence=next(sequence), timeout_seconds=_TIMEOUT_SECONDS
            )

        insert()
        draw(learner, _BATCH_SIZE)
        ended, sampled = threading.Event(), list[float]()
        sampling = threading.Thread(
            target=lambda: sampled.extend(_durations(lambda: draw(learner, _BATCH_SIZE), ended.is_set))
        )
        sampling.start()
        start = time.monotonic()
        try:
            inserted = _durations(insert, lambda: writer.stats(TABLE).num_inserted >= transitions)
        finally:
            ended.set()
            sampling.join()
        seconds, total = time.monotonic() - start, writer.stats(TABLE).num_inserted
    row: Row = {"log": log is not None, "transitions": total, "seconds": round(seconds, 1)}
    row["sealed_segments"] = 0 if log is None else len(list(log.glob("*/segment-*.index")))
    return row | _described("insert", inserted) | _described("sample", sampled)


def reverb_save(place: Path, *, items: int, errors: Path) -> Row:
    """How long Reverb stands still to save a table of so many items."""
    command = python_module(
        "benchmarks.peers.adapters.reverb_adapter", str(place.absolute()), str(items), "saved", python=str(PEERS_PYTHON)
    )
    with Worker(command, errors=errors) as worker:
        rate = worker.wait_until_ready().measure("save", 0.0)
    return {"items": rate.items, "reverb_save_ms": round(1e3 * rate.seconds, 1)}


def _durations(call: Callable[[], object], ended: Callable[[], bool]) -> list[float]:
    """Seconds of each call; whether it has ended is asked now and then, between calls."""
    durations = list[float]()
    while len(durations) % 32 or not ended():
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return durations


def _described(name: str, seconds: Sequence[float]) -> Row:
    milliseconds = 1e3 * np.array(seconds)
    return {
        f"{name}_calls": len(seconds),
        f"{name}_median_ms": round(float(np.median(milliseconds)), 1),
        f"{name}_p999_ms": round(float(np.quantile(milliseconds, 0.999)), 1),
        f"{name}_longest_ms": round(float(milliseconds.max()), 1),
        f"{name}_above_50_ms": int(np.count_nonzero(milliseconds > 1e3 * BOUND_SECONDS)),
    }


def main() -> None:
    """Prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="mspacman")
    parser.add_argument("--transitions", type=int, default=1_000_000, help="logged (default a million)")
    parser.add_argument("--reverb-items", type=int, help="saved by Reverb (default: as many as are logged; 0: none)")
    parser.add_argument("--workload", type=Path, help="folder in which plays are kept (default: a temporary one)")
    parser.add_argument("--folder", type=Path, help="where the log goes for the time (default: the temporary folder)")
    arguments = parser.parse_args()
    keep_heap()
    configure_logging("benchmark", "pauses", file=None)
    disturbance = Disturbance()
    items = arguments.transitions if arguments.reverb_items is None else arguments.reverb_items
    with tempfile.TemporaryDirectory(prefix="upcycle-pauses-", dir=arguments.folder) as scratch:
        folder = arguments.workload or Path(scratch)
        play = recorded(arguments.game, folder)
        for name in (None, "log"):
            log = None if name is None else Path(scratch) / name
            row = measured(play, transitions=arguments.transitions, log=log)
            print(json.dumps(row), flush=True)
        if items and PEERS_PYTHON.exists():
            saved = reverb_save(place_of(arguments.game, folder), items=items, errors=Path(scratch) / "errors.txt")
            longest = max(row["insert_longest_ms"], row["sample_longest_ms"])
            print(json.dumps(saved | {"times_our_longest_pause": round(saved["reverb_save_ms"] / longest, 1)}))
    print(f"other processes kept {disturbance.cores():.2f} cores busy", file=sys.stderr)


if __name__ == "__main__":
    main()
