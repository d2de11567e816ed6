"""Many clients at once: how replay scales with shards and clients, and whether it holds under a crowd."""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.cluster import TABLE, Cluster
from benchmarks.measure import Rate, machine_cpu_seconds
from benchmarks.operations import Writer, prepared
from benchmarks.workers import Worker, python_module
from benchmarks.workload import Play

_SHARDS: Final = (1, 2, 4)
_CLIENTS: Final = (1, 4, 16)
_WRITERS: Final = 64
_LEARNERS: Final = 4
_WRITERS_PER_PROCESS: Final = 8
_BUSY: Final = 0.9  # of a core, or of all cores
_WARM_UP_SECONDS: Final = 0.5
_MEMORY_LOOKS: Final = 5
SAMPLES_PER_INSERT: Final = 8.0
ERROR_BUFFER: Final = 16_384  # inserts: some requests of each client

Row = dict[str, Any]


def scaling(
    play: Play, place: Path, *, batch_size: int, batches_per_request: int, stored: int, seconds: float
) -> list[Row]:
    """Sampling from 1, 2, 4 shards by 1, 4, 16 clients, each of them a process.

    Returns: a row for each, with the cores that each process kept busy and what that says about the limit.
    """
    rows, cores = list[Row](), os.cpu_count() or 1
    for num_shards in _SHARDS:
        with Crowd(play, place, shards=num_shards, stored=stored) as crowd:
            learners = crowd.start(max(_CLIENTS), 1, batch_size=batch_size, batches_per_request=batches_per_request)
            for num_clients in _CLIENTS:
                chosen = learners[:num_clients]
                run(chosen, "sample", _WARM_UP_SECONDS)
                before, machine, start = crowd.cluster.cpu_seconds(), machine_cpu_seconds(), time.monotonic()
                rates = run(chosen, "sample", seconds)
                elapsed = time.monotonic() - start
                machine_cores = (machine_cpu_seconds() - machine) / elapsed
                used = zip(before, crowd.cluster.cpu_seconds(), strict=True)
                shard_cores = [round((after - first) / elapsed, 2) for first, after in used]
                client_cores = [round(rate.client_seconds / elapsed, 2) for rate in rates]
                other_cores = max(round(machine_cores - sum(shard_cores) - sum(client_cores), 2), 0.0)
                rows.append(
                    {
                        "shards": num_shards,
                        "clients": num_clients,
                        "sample_items_per_s": round(total(rates)),
                        "shard_cores": shard_cores,
                        "client_cores": client_cores,
                        "other_cores": other_cores,
                        "limit": limit(shard_cores, client_cores, other=other_cores, cores=cores),
                    }
                )
    return rows


def many_clients(
    play: Play, place: Path, *, batch_size: int, batches_per_request: int, stored: int, seconds: float
) -> list[Row]:
    """One writer and one learner at once on one shard, then 64 and 4 of them, for `seconds` each.

    First with the limiter, which paces both sides as in a run, then without: then both take what they get of the cores.
    """
    rows, sizes = list[Row](), {"batch_size": batch_size, "batches_per_request": batches_per_request}
    for ratio in (SAMPLES_PER_INSERT, None):
        with Crowd(play, place, shards=1, stored=stored, samples_per_insert=ratio) as crowd:
            insert = "insert" if ratio is None else "insert_paced"
            one = _measured(
                crowd, seconds, insert, writers=crowd.start(1, 1, **sizes), learners=crowd.start(1, 1, **sizes)
            )
            many = _measured(
                crowd,
                seconds,
                insert,
                writers=crowd.start(_WRITERS // _WRITERS_PER_PROCESS, _WRITERS_PER_PROCESS, **sizes),
                learners=crowd.start(_LEARNERS, 1, **sizes),
            )
        for name in ("insert_items_per_s", "sample_items_per_s"):
            many[f"{name}_against_single"] = round(many[name] / max(one[name], 1), 3)
        rows += [{"samples_per_insert": ratio, **row} for row in (one, many)]
    return rows


def _measured(
    crowd: "Crowd", seconds: float, insert: str, *, writers: Sequence[Worker], learners: Sequence[Worker]
) -> Row:
    """All of them at once; the memory of the shard is read meanwhile."""
    work = dict.fromkeys(writers, insert) | {worker: "sample" for worker in learners}
    run_all(work, _WARM_UP_SECONDS)
    before, start, memory = sum(crowd.cluster.cpu_seconds()), time.monotonic(), [crowd.cluster.private_bytes()]
    inserted = crowd.num_inserted()
    for worker, name in work.items():
        worker.begin(name, seconds)
    for _ in range(_MEMORY_LOOKS):
        time.sleep(seconds / _MEMORY_LOOKS)
        memory.append(crowd.cluster.private_bytes())
    inserts, samples = [worker.finish() for worker in writers], [worker.finish() for worker in learners]
    elapsed = time.monotonic() - start
    row: Row = {
        "writers": sum(len(rate.parts) for rate in inserts),
        "learners": len(samples),
        # As the shard counts: what a writer counts comes in lumps of one insert.
        "insert_items_per_s": round((crowd.num_inserted() - inserted) / max(rate.seconds for rate in inserts)),
        "sample_items_per_s": round(total(samples)),
        "insert_fairness": fairness(list(chain.from_iterable(rate.parts for rate in inserts))),
        "sample_fairness": fairness([rate.items for rate in samples]),
    }
    used = {"shard_cores": sum(crowd.cluster.cpu_seconds()) - before}
    for name, processes in (("writer_cores", inserts), ("learner_cores", samples)):
        used[name] = sum(rate.client_seconds for rate in processes)
    row |= {name: round(spent / elapsed, 2) for name, spent in used.items()}
    row["shard_private_mb"] = [round(size / 1e6) for size in memory]
    return row


class Crowd:
    """A filled cluster and processes with clients of it. Close it."""

    def __init__(
        self, play: Play, place: Path, *, shards: int, stored: int, samples_per_insert: float | None = None
    ) -> None:
        self._place, self._num_started = place, 0
        self.spec, chunks = prepared(play)
        self._stack = ExitStack()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="upcycle-crowd-")))
        try:
            self.cluster = self._stack.enter_context(
                Cluster(
                    self.spec,
                    capacity=stored,
                    shards=shards,
                    samples_per_insert=samples_per_insert,
                    error_buffer=ERROR_BUFFER,
                    # Filling is not paced: all but a part of the buffer comes before sampling begins.
                    min_size_to_sample=max(stored - ERROR_BUFFER // 2, 1),
                )
            )
            self._client = self.cluster.open_client("auto")
            self._stack.callback(self._client.close)
            Writer(self._client, self.spec, chunks, compressed=False).fill(stored)
        except BaseException:
            self._stack.close()
            raise

    def num_inserted(self) -> int:
        """Transitions inserted so far, as the shards count them."""
        return self._client.stats(TABLE).num_inserted

    def start(self, processes: int, clients: int, **sizes: int) -> list[Worker]:
        """Starts processes with so many clients each, and waits until they are ready."""
        workers = list[Worker]()
        for _ in range(processes):
            path = self._scratch / f"load-{self._num_started}.json"
            load = {
                "endpoints": self.cluster.endpoints(),
                "spec": self.spec.to_json(),
                "play": str(self._place.absolute()),
                "clients": clients,
                "seed": 1000 * self._num_started,
                **sizes,
            }
            path.write_text(json.dumps(load), encoding="utf-8")
            command = python_module("benchmarks.load_client", str(path))
            workers.append(self._stack.enter_context(Worker(command, errors=self._scratch / "errors.txt")))
            self._num_started += 1
        return [worker.wait_until_ready() for worker in workers]

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def run(workers: Sequence[Worker], name: str, seconds: float) -> list[Rate]:
    """Lets all workers do the same at once."""
    return run_all(dict.fromkeys(workers, name), seconds)


def run_all(work: Mapping[Worker, str], seconds: float) -> list[Rate]:
    """Lets each worker do its work, all at once."""
    for worker, name in work.items():
        worker.begin(name, seconds)
    return [worker.finish() for worker in work]


def total(rates: Sequence[Rate]) -> float:
    """Items per second of all of them together."""
    return sum(rate.items_per_s for rate in rates)


def fairness(parts: Sequence[int]) -> float:
    """What the least served client got by what the best served one got; 1 is perfectly fair."""
    return round(min(parts) / max(parts), 3) if parts and max(parts) else 0.0


def limit(shard_cores: Sequence[float], client_cores: Sequence[float], *, other: float, cores: int) -> str:
    """What the busy cores say about the limit.

    Args:
      other: cores that processes outside the benchmark kept busy; a row that they limit says nothing about replay.
    """
    ours = sum(shard_cores) + sum(client_cores)
    if ours >= _BUSY * cores:
        return "all cores of the machine are busy"
    if max(shard_cores) >= _BUSY:
        return "a shard fills one core"
    if max(client_cores) >= _BUSY:
        return "a client fills one core"
    if ours + other >= _BUSY * cores:
        return "disturbed: other processes take the cores"
    return "no core is full: round trips and waits"


def table(rows: Sequence[Row]) -> str:
    """The rows as a markdown table; columns are the names of all rows, in order."""
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    lines += [f"| {' | '.join(_cell(row.get(name, '')) for name in names)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, cast(list[Any], value)))
    return f"{value:,}" if isinstance(value, int) else str(value)
