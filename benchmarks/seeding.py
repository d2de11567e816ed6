"""How fast replay shards are filled from an experience log, and what bounds it: the disk, or decompression.

A shard is a process, as in a run, and each reads its part of the log; all do it at once.
"""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from benchmarks.cluster import TABLE, Cluster
from replay_service.types import Tier
from upcycle.experience_log import ExperienceLogReader
from upcycle.log_folder import load_segments

_TIMEOUT_SECONDS: Final = 900.0
_READ_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """What seeding cannot be faster than, in transitions a second.

    Attributes:
      disk: reading the log's files, which the kernel was told to forget.
      decompression: decompressing its chunks in as many processes as there are shards.
    """

    disk: float
    decompression: float


def seed_rate(log: Path, *, shards: int, newest: int, tier: Tier) -> float:
    """Transitions a second, from the first request to the last answer; the shards' start does not count."""
    reader = ExperienceLogReader.open(log)
    with Cluster(reader.spec, tier=tier, capacity=newest + shards * reader.spec.steps, shards=shards) as cluster:
        client = cluster.open_client("auto")
        try:
            client.stats(TABLE)  # connections
            forget(log)
            start = time.perf_counter()
            stored = client.seed(TABLE, log, newest_transitions=newest, timeout_seconds=_TIMEOUT_SECONDS)
            return stored / (time.perf_counter() - start)
        finally:
            client.close()


def bounds(log: Path, *, shards: int, newest: int) -> Bounds:
    """Both, measured over the same chunks that `seed_rate` stores."""
    share = newest / ExperienceLogReader.open(log).num_transitions
    forget(log)
    start = time.perf_counter()
    for path in _files(log):
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
    read_seconds = (time.perf_counter() - start) * min(share, 1.0)
    with ProcessPoolExecutor(shards, mp_context=get_context("spawn")) as pool:
        list(pool.map(_warm_up, range(shards)))
        start = time.perf_counter()
        list(pool.map(_decompress, [log] * shards, range(shards), [shards] * shards, [newest] * shards))
        seconds = time.perf_counter() - start
    return Bounds(disk=newest / read_seconds, decompression=newest / seconds)


def forget(log: Path) -> None:
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


def _decompress(log: Path, part: int, parts: int, newest: int) -> None:
    """Decompresses one shard's part of a log."""
    for _ in ExperienceLogReader.open(log).iterate(shard_index=part, num_shards=parts, newest_transitions=newest):
        pass
