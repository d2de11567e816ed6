"""How fast replay shards are filled from an experience log, and what bounds it: disk, decompression, or new memory.

A shard is a process, as in a run, and each reads its part of the log; all do it at once.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.cluster import TABLE, Cluster
from replay_service.storage.shared_memory import SharedSegment
from replay_service.table.types import Tier
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.log_folder import load_segments
from upcycle.runs.runtime import keep_heap

_TIMEOUT_SECONDS: Final = 900.0
_READ_BYTES: Final = 4 << 20


def seed_figures(log: Path, *, shards: int, newest: int, tier: Tier) -> dict[str, Any]:
    """Transitions a second and CPU time of seeding the newest transitions of a log, and of what bounds it."""
    disk, decompression, decompression_us = _bounds(log, shards=shards, newest=newest)
    memory, memory_us = _memory_bound(log, shards=shards, newest=newest)
    rate, cpu_us = _seed(log, shards=shards, newest=newest, tier=tier)
    return {
        "tier": tier,
        "shards": shards,
        "transitions_per_s": round(rate),
        "disk_limit_transitions_per_s": round(disk),
        "decompression_limit_transitions_per_s": round(decompression),
        # Only raw shards write all frames, as they are, into memory that they never had before.
        "memory_limit_transitions_per_s": round(memory) if tier == "raw" else None,
        "cpu_us_per_transition": round(cpu_us, 2),
        "decompression_cpu_us_per_transition": round(decompression_us, 2),
        "memory_cpu_us_per_transition": round(memory_us, 2) if tier == "raw" else None,
    }


def _seed(log: Path, *, shards: int, newest: int, tier: Tier) -> tuple[float, float]:
    """Transitions a second and CPU microseconds, from the first request to the last answer."""
    reader = ExperienceLogReader.open(log)
    with Cluster(reader.spec, tier=tier, capacity=newest + shards * reader.spec.steps, shards=shards) as cluster:
        client = cluster.open_client("auto")
        try:
            client.stats(TABLE)  # connections
            _forget(log)
            start, before = time.perf_counter(), sum(cluster.cpu_seconds())
            stored = client.seed(TABLE, log, newest_transitions=newest, timeout_seconds=_TIMEOUT_SECONDS)
            seconds, used = time.perf_counter() - start, sum(cluster.cpu_seconds()) - before
            return stored / seconds, 1e6 * used / stored
        finally:
            client.close()


def _bounds(log: Path, *, shards: int, newest: int) -> tuple[float, float, float]:
    """Transitions a second of the disk, which the kernel was told to forget; of decompression, and its CPU us."""
    share = newest / ExperienceLogReader.open(log).num_transitions
    _forget(log)
    start = time.perf_counter()
    for path in _files(log):
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
    read_seconds = (time.perf_counter() - start) * min(share, 1.0)
    with ProcessPoolExecutor(shards, mp_context=get_context("spawn")) as pool:
        list(pool.map(_warm_up, range(shards)))
        start = time.perf_counter()
        used = list(pool.map(_decompress, [log] * shards, range(shards), [shards] * shards, [newest] * shards))
        seconds = time.perf_counter() - start
    return newest / read_seconds, newest / seconds, 1e6 * sum(used) / newest


def _memory_bound(log: Path, *, shards: int, newest: int) -> tuple[float, float]:
    """Transitions a second whose frames are written into new shared memory, by as many processes; and its CPU us."""
    spec = ExperienceLogReader.open(log).spec
    chunks = newest // spec.steps // shards
    with ProcessPoolExecutor(shards, mp_context=get_context("spawn")) as pool:
        list(pool.map(_warm_up, range(shards)))
        start = time.perf_counter()
        used = list(pool.map(_write_new_memory, [spec.rows * spec.frame_bytes] * shards, [chunks] * shards))
        seconds = time.perf_counter() - start
    written = chunks * shards * spec.steps
    return written / seconds, 1e6 * sum(used) / written


def _write_new_memory(chunk_bytes: int, chunks: int) -> float:
    """Copies one chunk's worth of bytes again and again, never to the same place; returns CPU seconds."""
    segment, source = SharedSegment(chunk_bytes * chunks), np.ones(chunk_bytes, np.uint8)
    target = np.frombuffer(segment.buffer, np.uint8).reshape(chunks, chunk_bytes)
    start = time.process_time()
    for row in target:
        row[:] = source
    used = time.process_time() - start
    segment.close()
    return used


def _forget(log: Path) -> None:
    """Takes a log's files out of the kernel's cache, once they are on disk."""
    for path in _files(log):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(log: Path) -> list[Path]:
    return [segment.path for segment in load_segments(log)]


def _warm_up(_number: int) -> None:
    """Makes a process that is there, with everything imported."""
    time.sleep(0.2)


def _decompress(log: Path, part: int, parts: int, newest: int) -> float:
    """Decompresses one shard's part of a log; returns CPU seconds."""
    keep_heap()
    start = time.process_time()
    for _ in ExperienceLogReader.open(log).iterate(shard_index=part, num_shards=parts, newest_transitions=newest):
        pass
    return time.process_time() - start
