"""The experience log: the chunks that a table has accepted, on disk, in order; a teacher's buffer for the next run.

A log is a folder of `log.json` (format, chunk specification, environment) and segments (`log_segment`). One process
writes; any number of processes read, also meanwhile. An append survives the death of the writer; after `sync` it
survives a power cut. Full segments are sealed and immutable, as are all segments of a closed writer, so that another
log can share them (`link_log`). Sealing forces a segment to disk, so a thread does it while the next segment is filled.

A folder of logs (`shard-0`, `shard-1`, ... as the replay shards of a run write them) reads like one log.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import numpy as np

from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.log_folder import describe_log, load_segments, lock_for_writing, log_parts, read_description
from upcycle.experience.log_segment import (
    CompressedChunk,
    Segment,
    decode_record,
    encode_record,
    force_segment,
    recover_segment,
    scan_segment,
    segment_name,
)
from upcycle.experience.log_trimming import Trimming
from upcycle.files import disk_full_explained, sync_folder, write_all

DEFAULT_SEGMENT_BYTES: Final = 64 << 20


class ExperienceLogWriter:
    """Appends chunks to a log. Not thread-safe."""

    def __init__(self, directory: Path, lock: int, segments: list[Segment], *, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._lock: int | None = lock
        self.recovered_bytes = sum(segment.torn_bytes for segment in segments)
        """Bytes of an unfinished append that were removed when the log was opened."""
        self._sealed = [sealed for segment in segments if (sealed := recover_segment(segment)) is not None]
        self.num_bytes = sum(segment.num_bytes for segment in self._sealed)
        """Bytes of all records; a counter, since it is read at every append."""
        self._trimming = Trimming(directory)
        self._next_sequence = self._trimming.next_sequence(self._sealed)
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="log-sealer")
        self._sealing: tuple[int, Segment, Future[None]] | None = None  # a full segment, already in _sealed
        self._descriptor: int | None = None  # of the open segment, if any
        self._is_named = True  # whether the name of the open segment has been forced to disk
        self._bounds, self._counts = [0], list[int]()  # of the open segment

    @classmethod
    def open(
        cls, directory: Path, spec: ChunkSpec, env: EnvConfig, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES
    ) -> Self:
        """Opens a new or existing log for writing; removes an append that a killed writer left unfinished.

        Raises: UserError if the log has other chunks, another environment, or a writer already;
          CorruptDataError naming file and offset if it is damaged anywhere but at its very end.
        """
        with disk_full_explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = lock_for_writing(directory)
        try:
            describe_log(directory, spec, env)
            return cls(directory, lock, load_segments(directory), segment_bytes=segment_bytes)
        except BaseException:
            os.close(lock)
            raise

    @property
    def num_chunks(self) -> int:
        """Chunks in the log."""
        return sum(segment.num_chunks for segment in self._sealed) + len(self._counts)

    @property
    def num_transitions(self) -> int:
        """Transitions in the log."""
        return sum(int(segment.num_transitions.sum()) for segment in self._sealed) + sum(self._counts)

    @property
    def num_appended(self) -> int:
        """Transitions ever appended to the log, including those that `trim` has removed."""
        return self._trimming.num_appended(self._sealed) + sum(self._counts)

    def append(self, data: bytes | CompressedChunk, num_transitions: int) -> int:
        """Appends one encoded chunk to the page cache and returns its sequence number.

        Raises: UserError if the disk is full, for this segment or the previous one; the log is unchanged, and a later
          append may succeed.
        """
        assert self._lock is not None, "the log is closed"
        if self._bounds[-1] >= self._segment_bytes:
            self._seal()
        record = encode_record(data, sequence=self._next_sequence, num_transitions=num_transitions)
        with disk_full_explained(self._directory):
            descriptor = self._open_segment()
            try:
                write_all(descriptor, record, offset=self._bounds[-1])
            except BaseException:  # even on an interrupt: no half record may stay
                os.ftruncate(descriptor, self._bounds[-1])
                raise
        self._bounds.append(self._bounds[-1] + len(record))
        self._counts.append(num_transitions)
        self.num_bytes += len(record)
        self._next_sequence += 1
        return self._next_sequence - 1

    def trim(self, max_transitions: int) -> int:
        """Removes the oldest whole segments while the rest hold `max_transitions` or more; returns transitions removed.

        The newest segment always stays.
        """
        total, removed = self.num_transitions, 0
        while len(self._sealed) > (0 if self._counts else 1):
            oldest = self._sealed[0]
            if self._sealing is not None and self._sealing[1] is oldest:
                self._wait_for_sealer()
            count = int(oldest.num_transitions.sum())
            if total - removed - count < max_transitions:
                break
            self._trimming.remove(oldest)
            self._sealed.pop(0)
            self.num_bytes -= oldest.num_bytes
            removed += count
        return removed

    def sync(self) -> None:
        """Forces everything appended so far to disk."""
        self._wait_for_sealer()  # before this segment, so that a power cut leaves no gap
        if self._descriptor is not None:
            with disk_full_explained(self._directory):
                os.fsync(self._descriptor)
                if not self._is_named:
                    sync_folder(self._directory)
                    self._is_named = True

    def close(self) -> None:
        """Seals the open segment and unlocks the log. Safe to call twice."""
        if self._lock is None:
            return
        try:
            self._seal()
            self._wait_for_sealer()
        finally:
            self._sealer.shutdown(wait=True)
            for descriptor in (self._descriptor, self._sealing[0] if self._sealing is not None else None):
                if descriptor is not None:
                    os.close(descriptor)
            self._descriptor = self._sealing = None
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_segment(self) -> int:
        if self._descriptor is None:
            path = self._directory / segment_name(self._next_sequence)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._is_named = False
        return self._descriptor

    def _seal(self) -> None:
        """Hands the open segment to the sealer; if that fails, it stays open and intact."""
        if self._descriptor is None or not self._counts:
            return
        self._wait_for_sealer()  # one at a time, so that at most two segments are not on disk yet
        first = self._next_sequence - len(self._counts)
        bounds, counts = np.array(self._bounds, np.int64), np.array(self._counts, np.int64)
        segment = Segment(self._directory / segment_name(first), first, bounds, counts)
        if os.fstat(self._descriptor).st_size > segment.num_bytes:  # a failed append that could not be rolled back
            os.ftruncate(self._descriptor, segment.num_bytes)  # only if needed: it waits for the disk
        self._sealing = self._descriptor, segment, self._sealer.submit(force_segment, self._descriptor, segment)
        self._sealed.append(segment)
        self._descriptor, self._bounds, self._counts = None, [0], []

    def _wait_for_sealer(self) -> None:
        """Waits until no segment is being sealed; retries a failed one, and raises if it fails again."""
        if self._sealing is None:
            return
        descriptor, segment, sealed = self._sealing
        if sealed.exception() is not None:
            force_segment(descriptor, segment)
        os.close(descriptor)
        self._sealing = None


class ExperienceLogReader:
    """Reads a log, or a folder of logs, as it was when opened. Chunks are numbered from the oldest, 0.

    Chunks of several logs are ordered by their distance from the end of their log, so that the newest of all come last.
    """

    def __init__(self, parts: list[list[Segment]], *, spec: ChunkSpec, env: EnvConfig) -> None:
        self.spec = spec
        self.env = env
        self._segments = [segment for part in parts for segment in part]
        sizes = [segment.num_chunks for segment in self._segments]
        segment_of = np.repeat(np.arange(len(self._segments)), sizes)
        record_of = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, np.int64)
        part_sizes = [sum(segment.num_chunks for segment in part) for part in parts]
        part_of = np.repeat(np.arange(len(parts)), part_sizes)
        age = np.concatenate([np.arange(size)[::-1] for size in part_sizes]) if parts else np.zeros(0, np.int64)
        order = np.lexsort((part_of, -age))
        self._segment_of, self._record_of = segment_of[order], record_of[order]
        counts = [segment.num_transitions for segment in self._segments]
        self._transitions = np.concatenate([*counts, np.zeros(0, np.int64)])[order]

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Opens a log for reading, without an unfinished append at its end (`torn_bytes`).

        Raises: UserError if there is no log; CorruptDataError naming file and offset if it is damaged.
        """
        parts = log_parts(directory)
        descriptions = [read_description(part) for part in parts]
        for part, description in zip(parts, descriptions, strict=True):
            if description != descriptions[0]:
                raise CorruptDataError(f"{part}: holds other chunks or another environment than {parts[0]}")
        spec, env = descriptions[0]
        return cls([load_segments(part) for part in parts], spec=spec, env=env)

    @property
    def num_chunks(self) -> int:
        """Chunks in the log."""
        return len(self._transitions)

    @property
    def num_transitions(self) -> int:
        """Transitions in the log."""
        return int(self._transitions.sum())

    def count_newest(self, num_transitions: int) -> int:
        """Number of newest chunks that hold `num_transitions` transitions, or all chunks if the log has fewer."""
        needed = int(np.searchsorted(np.cumsum(self._transitions[::-1]), num_transitions)) + 1
        return min(needed, self.num_chunks) if num_transitions > 0 else 0

    @property
    def torn_bytes(self) -> int:
        """Bytes after the last whole record: an unfinished append, or one in progress."""
        return sum(segment.torn_bytes for segment in self._segments)

    def read(self, index: int) -> bytes:
        """Encoded chunk `index`, exactly as appended. Raises: CorruptDataError naming file and offset."""
        segment, record = self._segments[int(self._segment_of[index])], int(self._record_of[index])
        start, end = int(segment.bounds[record]), int(segment.bounds[record + 1])
        try:
            with segment.path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
            return decode_record(data, sequence=segment.first_sequence + record)
        except FileNotFoundError as error:
            raise CorruptDataError(f"{segment.path}: the segment has been removed") from error
        except CorruptDataError as error:
            raise CorruptDataError(f"{segment.path} at byte {start}: {error}") from error

    def iterate(
        self, *, shard_index: int = 0, num_shards: int = 1, newest_transitions: int | None = None
    ) -> Iterator[bytes]:
        """Every `num_shards`-th chunk, from the oldest to the newest.

        Args:
          shard_index: of this selection, from 0.
          num_shards: number of disjoint selections that make up the log.
          newest_transitions: keep only the newest chunks that hold this many transitions over all selections.
        """
        for index in self.select(shard_index, num_shards, newest_transitions):
            yield self.read(index)

    def select(self, shard_index: int, num_shards: int, newest_transitions: int | None) -> range:
        """The numbers of the chunks that `iterate` reads."""
        newest = self.num_chunks if newest_transitions is None else self.count_newest(newest_transitions)
        first = self.num_chunks - newest
        return range(first + (shard_index - first) % num_shards, self.num_chunks, num_shards)

    def verify(self) -> None:
        """Reads everything. Raises: CorruptDataError naming file and offset of the first bad record."""
        for segment in self._segments:
            scanned = scan_segment(segment.path, segment.first_sequence)
            whole = np.array_equal(scanned.bounds, segment.bounds)
            if scanned.torn_bytes or not whole or not np.array_equal(scanned.num_transitions, segment.num_transitions):
                end = min(scanned.num_bytes, segment.num_bytes)
                raise CorruptDataError(f"{segment.path} at byte {end}: damaged or unfinished record")
        for index in range(self.num_chunks):
            self.read(index)
