"""Replay at full rate for a long time: `make soak`, or `python -m benchmarks.soak --minutes 30`.

One shard, one writer process and one learner process, which samples through shared memory and writes priorities back;
the limiter paces them. Each interval gives a row: rates, CPU time an item, memory, descriptors and threads. At the end
the last third stands against the first third: a service that ages shows there. Ctrl-C ends it early, with what it has.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.crowds import ERROR_BUFFER, SAMPLES_PER_INSERT, Crowd
from benchmarks.measure import Rate, machine_cpu_seconds, median, private_bytes
from benchmarks.workers import ROOT, Worker
from benchmarks.workload import GAMES, Game, place_of, recorded
from upcycle.files import write_atomically
from upcycle.runs.runtime import configure_logging, keep_heap
from upcycle.streams import leavable_streams

_PANELS: Final = (
    ("transitions per second", ("samples_per_s", "inserts_per_s")),
    ("CPU microseconds an item", ("shard_us_per_sample", "learner_us_per_sample", "writer_us_per_insert")),
    ("private memory, MB", ("shard_mb", "learner_mb", "writer_mb")),
)
_TRENDS: Final = ("inserts_per_s", "samples_per_s", *_PANELS[1][1], *_PANELS[2][1])

Row = dict[str, Any]


def soak(game: Game, folder: Path, *, seconds: float, interval: float, stored: int) -> list[Row]:
    """Runs and returns a row of each interval, fewer after Ctrl-C."""
    play, rows = recorded(game, folder), list[Row]()
    try:
        with Crowd(
            play, place_of(game, folder), shards=1, stored=stored, samples_per_insert=SAMPLES_PER_INSERT
        ) as crowd:
            sizes = {"batch_size": 512, "batches_per_request": 4}
            (writer,), (learner,) = crowd.start(1, 1, **sizes), crowd.start(1, 1, **sizes)
            try:
                _interval(writer, learner, interval / 4)  # warm: memory is touched, buffers are full
                start = time.monotonic()
                while time.monotonic() - start < seconds:
                    row = _row(crowd, writer, learner, interval)
                    rows.append({"seconds": round(time.monotonic() - start, 1), **row})
                    print(json.dumps(rows[-1]), flush=True)
            except KeyboardInterrupt:
                for worker in (writer, learner):
                    worker.stop()  # it would finish its window first
                raise
    except KeyboardInterrupt:
        print("ended early", file=sys.stderr)
    return rows


def _row(crowd: Crowd, writer: Worker, learner: Worker, interval: float) -> Row:
    (shard,) = crowd.cluster.pids
    before, machine, inserted = crowd.cluster.cpu_seconds()[0], machine_cpu_seconds(), crowd.num_inserted()
    inserting, learning = _interval(writer, learner, interval)
    return {
        **_rates(crowd.num_inserted() - inserted, inserting, learning),
        **_costs(crowd.cluster.cpu_seconds()[0] - before, inserting, learning),
        "machine_cores": round((machine_cpu_seconds() - machine) / learning.seconds, 2),
        **_holdings({"shard": shard, "learner": learner.pid, "writer": writer.pid}),
    }


def _interval(writer: Worker, learner: Worker, seconds: float) -> tuple[Rate, Rate]:
    writer.begin("insert_paced", seconds)
    learner.begin("learn", seconds)
    return writer.finish(), learner.finish()


def _rates(inserted: int, inserting: Rate, learning: Rate) -> Row:
    samples = round(learning.items_per_s)
    # Every sampled transition gets a new priority.
    return {"inserts_per_s": round(inserted / inserting.seconds), "samples_per_s": samples, "updates_per_s": samples}


def _costs(shard_seconds: float, inserting: Rate, learning: Rate) -> Row:
    samples = max(learning.items, 1)
    return {
        "shard_us_per_sample": round(1e6 * shard_seconds / samples, 2),
        "learner_us_per_sample": round(learning.client_us, 2),
        "writer_us_per_insert": round(inserting.client_us, 2),
    }


def _holdings(processes: dict[str, int]) -> Row:
    row = Row()
    for name, pid in processes.items():
        row[f"{name}_mb"] = round(private_bytes(pid) / 1e6, 1)
        row[f"{name}_descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
        row[f"{name}_threads"] = len(os.listdir(f"/proc/{pid}/task"))
    return row


def trends(rows: Sequence[Row]) -> dict[str, float]:
    """By column, the median of the last third of the rows against that of the first third, in percent of it."""
    third = max(len(rows) // 3, 1)
    found = dict[str, float]()
    for name in _TRENDS:
        first = median(row[name] for row in rows[:third])
        found[name] = round(100 * (median(row[name] for row in rows[-third:]) / first - 1), 2) if first else 0.0
    return found


def picture(rows: Sequence[Row], title: str) -> bytes:
    """PNG: rates, costs and memory over time."""
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    figure.suptitle(title)
    minutes = [row["seconds"] / 60 for row in rows]
    for axes, (label, names) in zip(figure.subplots(len(_PANELS), sharex=True), _PANELS, strict=True):
        for name in names:
            axes.plot(minutes, [row[name] for row in rows], label=name)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, loc="center right")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_xlabel("minutes")
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
    return data.getvalue()


def main() -> None:
    """Runs, prints a line for each interval, and writes `soak.json` and `soak.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="pong")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--interval", type=float, default=30.0, help="seconds of a row (default 30)")
    parser.add_argument("--stored", type=int, default=100_000, help="transitions in the table")
    parser.add_argument("--workload", type=Path, help="folder in which plays are kept (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of soak.json, soak.png")
    arguments = parser.parse_args()
    keep_heap()
    configure_logging("benchmark", "soak", file=None)
    with tempfile.TemporaryDirectory(prefix="upcycle-soak-") as scratch:
        folder, seconds = arguments.workload or Path(scratch), 60 * arguments.minutes
        rows = soak(arguments.game, folder, seconds=seconds, interval=arguments.interval, stored=arguments.stored)
    if not rows:
        print("no interval is complete", file=sys.stderr)
        return
    values: Row = {
        "game": arguments.game,
        "stored": arguments.stored,
        "samples_per_insert": SAMPLES_PER_INSERT,
        "error_buffer": ERROR_BUFFER,
        "last_third_against_first_percent": trends(rows),
        "rows": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.output / "soak.json", (json.dumps(values, indent=1) + "\n").encode())
    title = f"{arguments.game}: {rows[-1]['seconds'] / 60:.1f} minutes, {SAMPLES_PER_INSERT:g} samples per insert"
    write_atomically(arguments.output / "soak.png", picture(rows, title))
    print(json.dumps(values["last_third_against_first_percent"]))


if __name__ == "__main__":
    with leavable_streams():
        main()
