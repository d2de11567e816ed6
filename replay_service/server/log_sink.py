"""The experience log of a shard, shared by its tables, and what goes into it."""

import os
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from upcycle.errors import UserError
from upcycle.experience.chunks import Chunk, ChunkSpec, decode_chunk, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter

LOGGED_TABLE: Final = "online"
"""The table that actors fill, whose chunks go into the experience log."""

_READ_CHUNKS: Final = 16  # stored under one hold of a table's lock, so that seeding never keeps others waiting for long


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


def encode_for_log(data: bytes, spec: ChunkSpec, *, logged: bool) -> EncodedChunk:
    """A chunk as it came, verified. Raises: CorruptDataError if it is not one of `spec`."""
    chunk = decode_chunk(data, spec)
    # The log compresses a chunk as a whole, which frames that are compressed already would spoil.
    raw = encode_chunk(chunk, spec) if logged and chunk.packed is not None else data
    return EncodedChunk(raw, chunk, chunk.num_transitions(spec))


def read_part(reader: ExperienceLogReader, part: LogPart, spec: ChunkSpec, *, packed: bool) -> Generator[list[Chunk]]:
    """The chunks of a part of a log, in their order, a few at a time; all cores read ahead of the caller.

    Args:
      packed: compress their frames into LZ4 blocks as well.
    Raises: UserError if the log holds other chunks than `spec`; CorruptDataError if it is damaged.
    """
    if reader.spec != spec:
        raise UserError(
            "teacher's log",
            reader.spec.to_json(),
            f"are not the chunks that this run uses, {spec.to_json()}",
            "give both the same frame size, actions, replay.chunk_steps, env.frame_stack and learner.n_step",
        )
    threads = os.cpu_count() or 1

    def load(index: int) -> Chunk:
        chunk = decode_chunk(reader.read(index), spec)
        return replace(chunk, packed=chunk.packed_frames()) if packed else chunk

    chosen = iter(reader.select(part.shard_index, part.num_shards, part.newest_transitions))
    with ThreadPoolExecutor(threads, thread_name_prefix="log-part") as pool:
        ahead = deque(pool.submit(load, index) for index in islice(chosen, _READ_CHUNKS + threads))
        try:
            while ahead:
                batch = [ahead.popleft().result() for _ in range(min(len(ahead), _READ_CHUNKS))]
                ahead.extend(pool.submit(load, index) for index in islice(chosen, len(batch)))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


class SharedLog:
    """An experience log that several tables append to; the lock is held for one append."""

    def __init__(self, writer: ExperienceLogWriter) -> None:
        self._writer, self._lock = writer, threading.Lock()
        self.num_before = writer.num_appended
        """Transitions that the log had taken when this shard began."""

    def append(self, encoded: EncodedChunk) -> int:
        """Appends a chunk; the kernel has it on return. Returns the bytes written. Raises UserError if disk is full."""
        with self._lock:
            before = self._writer.num_bytes
            self._writer.append(encoded.data, encoded.num_transitions)
            return self._writer.num_bytes - before

    def trim(self, max_transitions: int) -> int:
        """Removes the oldest files of the log while the others hold so many or more; returns what is left, in bytes.

        Raises: UserError if the disk is full: the log stays as it is then.
        """
        with self._lock:
            self._writer.trim(max_transitions)
            return self._writer.num_bytes

    def sync(self) -> None:
        """Forces everything appended so far to disk."""
        with self._lock:
            self._writer.sync()
