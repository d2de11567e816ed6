"""The experience log of a shard, shared by its tables, and what goes into it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from upcycle.chunks import Chunk, ChunkSpec, decode_chunk, encode_chunk
from upcycle.errors import UserError
from upcycle.experience_log import ExperienceLogReader, ExperienceLogWriter

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


def read_part(reader: ExperienceLogReader, part: LogPart, spec: ChunkSpec) -> Iterator[list[Chunk]]:
    """The chunks of a part of a log, a few at a time.

    Raises: UserError if the log holds other chunks than `spec`; CorruptDataError if it is damaged.
    """
    if reader.spec != spec:
        raise UserError(
            "teacher's log",
            reader.spec.to_json(),
            f"are not the chunks that this run uses, {spec.to_json()}",
            "give both the same frame size, actions, replay.chunk_steps, env.frame_stack and learner.n_step",
        )
    payloads = reader.iterate(
        shard_index=part.shard_index, num_shards=part.num_shards, newest_transitions=part.newest_transitions
    )
    while batch := [decode_chunk(data, spec) for data in islice(payloads, _READ_CHUNKS)]:
        yield batch


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
