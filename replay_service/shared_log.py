"""The experience log of a shard, shared by its tables, and what goes into it."""

import threading
from dataclasses import dataclass

from upcycle.chunks import Chunk
from upcycle.experience_log import ExperienceLogWriter


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """A chunk in the form that the log keeps, verified, and decoded."""

    data: bytes
    chunk: Chunk
    num_transitions: int


@dataclass(frozen=True, slots=True)
class LogPart:
    """Which part of a log: every `num_shards`-th chunk of its newest transitions (None: of all)."""

    shard_index: int = 0
    num_shards: int = 1
    newest_transitions: int | None = None


class SharedLog:
    """An experience log that several tables append to; the lock is held for one append."""

    def __init__(self, writer: ExperienceLogWriter) -> None:
        self._writer, self._lock = writer, threading.Lock()

    def append(self, encoded: EncodedChunk) -> int:
        """Appends a chunk; the kernel has it on return. Returns the bytes written. Raises UserError if disk is full."""
        with self._lock:
            before = self._writer.num_bytes
            self._writer.append(encoded.data, encoded.num_transitions)
            return self._writer.num_bytes - before

    def sync(self) -> None:
        """Forces everything appended so far to disk."""
        with self._lock:
            self._writer.sync()
