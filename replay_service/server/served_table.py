"""A table that several threads use: one lock, one condition, the experience log, and waits that end."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from replay_service.server.admission_queue import WaitingLine, place_in
from replay_service.server.log_sink import LOGGED_TABLE, EncodedChunk, LogPart, SharedLog, encode_for_log, read_part
from replay_service.server.reservations import Reservations
from replay_service.server.size_gauge import SizeGauge
from replay_service.storage.shared_memory import SharedSegment
from replay_service.table.contents import TableContents
from replay_service.table.table import Table
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ScanCursor, TableDraw, TableSample
from replay_service.wire.errors import ShardStopping
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics

_MAX_RESERVATIONS: Final = 4  # enough to keep a shard busy while the chunks of the next are on their way
_RESERVED_SECONDS: Final = 2.0


class ServedTable:
    """Thread-safe face of a `Table`.

    Two locks, taken in this order: `_inserting` makes check, log and store of an insert one step against other
    inserts; `_changed` guards the table itself and is held for memory work only, never for the disk.

    Attributes:
      waiting_inserts, waiting_samples: calls that the limiter holds back.
    Args:
      log: accepted chunks are appended to it before they are acknowledged; None keeps no log.
      max_writers, max_readers: calls that may wait at a time, for room for chunks and for anything else; any more are
        answered at once, so that those that wait never use up the threads that others need.
      segment: the shared memory that the table's arena lies in, if it does.
    """

    def __init__(
        self,
        table: Table,
        *,
        log: SharedLog | None,
        metrics: Metrics,
        size: SizeGauge,
        max_writers: int,
        max_readers: int,
        segment: SharedSegment | None = None,
    ) -> None:
        self._table, self._log, self._metrics, self._size = table, log, metrics, size
        self.segment, self.config = segment, table.config
        self._inserting = threading.Lock()
        self._changed = threading.Condition()  # notified when chunks have come in, for those that wait for any
        self.waiting_inserts, self.waiting_samples = WaitingLine(self._changed), WaitingLine(self._changed)
        self._reservations = Reservations(most=_MAX_RESERVATIONS, keep_seconds=_RESERVED_SECONDS)
        self._writers = threading.BoundedSemaphore(max_writers)
        self._readers = threading.BoundedSemaphore(max_readers)
        self._num_refused, self._stopping, self._num_before = 0, False, None if log is None else log.num_before

    def verify(self, payloads: Sequence[bytes]) -> list[EncodedChunk]:
        """Decodes chunks. Raises CorruptDataError, and counts it, if any of them is not what this table stores."""
        try:
            return [encode_for_log(data, self._table.spec, logged=self._log is not None) for data in payloads]
        except CorruptDataError:
            with self._changed:
                self._num_refused += 1
            self._metrics.increment("replay_refused_chunks_total")
            raise

    def insert(self, chunks: Sequence[EncodedChunk], *, writer_id: str, first_sequence: int) -> tuple[int, TableStats]:
        """Stores chunks in order until there is no room for one: what others wait for, or have reserved, is no room.

        Never waits for room; what it returns for is in the log. A draining table stores nothing; what it has stored
        before stays acknowledged.
        Returns: how many of the first chunks are stored now (by this call or an earlier one), and counters.
        Raises: UserError if the disk is full; the chunks before the failing one are stored.
        """
        num_stored = 0
        try:
            with self._inserting:
                for encoded in chunks:
                    if not self._insert_one(encoded, writer_id, first_sequence + num_stored):
                        break
                    num_stored += 1
        finally:
            with self._changed:
                self._reservations.end(writer_id)
                self.waiting_inserts.call_next()
                stats = self._stats()
            self._size.set(self.config.name, stats.num_transitions)
        return num_stored, stats

    def reserve(
        self, num_chunks: int, *, writer_id: str, wait_seconds: float, waited_seconds: float
    ) -> tuple[int, TableStats]:
        """Keeps room for as many chunks, of so many, as the limiter has room for, after waiting in line for one.

        Args:
          waited_seconds: how long the writer has been waiting already; who has waited longer comes first.
        Returns: how many that are, and counters. The room is the writer's until its next insert, or for two seconds.
        """
        if self.config.samples_per_insert is None:
            return num_chunks, self.stats()
        start = time.monotonic()
        arrival = start - waited_seconds
        with self._changed:
            self._reservations.end(writer_id)
        with (
            place_in(self._writers) as may_wait,
            self.waiting_inserts.turn(self._has_room, wait_seconds if may_wait else 0.0, arrival=arrival) as came,
            self._changed,
        ):
            num_granted = self._grant(writer_id, num_chunks) if came else 0
            stats = self._stats()
        self._metrics.increment("replay_insert_wait_seconds_total", time.monotonic() - start)
        return num_granted, stats

    def admit(self, num_samples: int, *, wait_seconds: float) -> tuple[int, TableStats]:
        """Counts as many samples, of so many, as the limiter has room for, after waiting for room for one.

        Returns: how many that are, and counters. They count from now on, whatever becomes of them.
        """
        start = time.monotonic()
        with (
            place_in(self._readers) as may_wait,
            self.waiting_samples.turn(self._table.may_sample, wait_seconds if may_wait else 0.0) as came,
            self._changed,
        ):
            num_admitted = self._table.admit_samples(num_samples) if came else 0
            self.waiting_inserts.call_next()
            stats = self._stats()
        self._metrics.increment("replay_sample_wait_seconds_total", time.monotonic() - start)
        return num_admitted, stats

    def sample(
        self, batch_size: int, view: View, *, packed: bool = False, rng: np.random.Generator | None = None
    ) -> tuple[TableSample, TableStats]:
        """Draws transitions, see `Table.sample`; none if nothing can be drawn.

        Raises: ValueError for an impossible view.
        """
        with self._changed:
            sample, stats = self._table.sample(batch_size, view, packed=packed, rng=rng), self._stats()
        self._count_samples(sample.draw, stats)
        return sample, stats

    def draw(
        self, batch_size: int, view: View, *, rng: np.random.Generator | None = None
    ) -> tuple[TableDraw, TableStats]:
        """Like `sample`, without the windows: the caller reads them itself and checks the generations after."""
        with self._changed:
            draw, stats = self._table.draw(batch_size, view, rng=rng), self._stats()
        self._count_samples(draw, stats)
        return draw, stats

    def update_priorities(
        self, slots: Array, offsets: Array, generations: Array, priorities: Array
    ) -> tuple[int, TableStats]:
        """Returns how many keys were stale, and counters. Raises ValueError for impossible keys or priorities."""
        with self._changed:
            num_stale = self._table.update_priorities(slots, offsets, generations, priorities)
            stats = self._stats()
        self._metrics.increment("replay_stale_updates_total", num_stale)
        return num_stale, stats

    def annotate(self, slots: Array, offsets: Array, generations: Array, values: Array) -> tuple[int, TableStats]:
        """Returns how many keys were stale, and counters. Raises as `Table.annotate` does."""
        with self._changed:
            num_stale = self._table.annotate(slots, offsets, generations, values)
            stats = self._stats()
        self._metrics.increment("replay_annotations_total", len(slots) - num_stale)
        self._metrics.increment("replay_stale_annotations_total", num_stale)
        return num_stale, stats

    def scan(
        self, cursor: ScanCursor, limit: int, view: View, *, only_missing: bool, packed: bool
    ) -> tuple[TableSample, ScanCursor, bool, TableStats]:
        """The next transitions of a pass, see `Table.scan`, and counters."""
        with self._changed:
            return *self._table.scan(cursor, limit, view, only_missing=only_missing, packed=packed), self._stats()

    def seed(self, reader: ExperienceLogReader, part: LogPart) -> int:
        """Stores a part of a log and returns its transitions.

        Raises: UserError if the log holds other chunks; CorruptDataError if it is damaged; ShardStopping.
        """
        num_transitions = 0
        for batch in read_part(reader, part, self._table.spec, packed=self._table.config.tier == "warm"):
            with self._changed:
                if self._stopping:
                    raise ShardStopping("the shard is stopping; the table is seeded in part")
                num_transitions += sum(self._table.seed(chunk) for chunk in batch)
                self._changed.notify_all()
        self._size.set(self._table.config.name, self.stats().num_transitions)
        return num_transitions

    def stats(self, *, n_step: int = 0) -> TableStats:
        """Counters; with an n_step, the mass and the drawable transitions are those of that horizon."""
        with self._changed:
            if n_step:
                self._table.set_n_step(n_step)
            return self._stats()

    def oldest_seconds(self) -> float:
        """See `Table.oldest_seconds`."""
        with self._changed:
            return self._table.oldest_seconds(time.monotonic())

    def inspect(self, num_windows: int, view: View, *, rng: np.random.Generator) -> tuple[TableContents, TableStats]:
        """What the table holds, and counters; changes nothing. Raises ValueError for an impossible view."""
        with self._changed:
            return self._table.inspect(num_windows, view, now=time.monotonic(), rng=rng), self._stats()

    def wait_for_change(self, known_revision: int, timeout_seconds: float) -> None:
        """Waits until chunks have come in since `known_revision`, for a time at the most."""
        with place_in(self._readers) as may_wait, self._changed:
            if may_wait:
                self._changed.wait_for(
                    lambda: self._stopping or self._table.stats().revision != known_revision, timeout_seconds
                )

    def raise_max_priority(self, priority: float) -> None:
        """Takes note of a priority that another shard has seen."""
        with self._changed:
            self._table.raise_max_priority(priority)

    def drain(self, draining: bool) -> None:
        """Takes no more chunks, or takes them again. Inserts in line are sent away; on return none is under way."""
        with self._inserting, self._changed:
            if self._stopping:
                return
            self._table.drain(draining)
            self._metrics.set("replay_draining", draining)
            if draining:
                self.waiting_inserts.close()
            else:
                self.waiting_inserts.reopen()
                self.waiting_samples.call_next()  # a table that does not drain has room ahead of inserts
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends all waits, now and later."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self.waiting_inserts.close()
            self.waiting_samples.close()

    def _has_room(self) -> bool:
        """Whether one more chunk may be promised room. Held: _changed."""
        return self._reservations.has_place(now := time.monotonic()) and self._may_insert(self._table.spec.steps, now)

    def _grant(self, writer_id: str, num_chunks: int) -> int:
        """Promises room for as many of these chunks as there is. Held: _changed."""
        now, steps = time.monotonic(), self._table.spec.steps
        while num_chunks > 0 and not self._may_insert(num_chunks * steps, now):
            num_chunks -= 1
        if num_chunks > 0:
            self._reservations.grant(writer_id, num_chunks * steps, now)
        return num_chunks

    def _may_insert(self, num_transitions: int, now: float, *, writer_id: str | None = None) -> bool:
        """Whether the limiter has room for these and for what others have been promised. Held: _changed."""
        return self._table.may_insert(num_transitions + self._reservations.num_transitions(now, besides=writer_id))

    def _insert_one(self, encoded: EncodedChunk, writer_id: str, sequence: int) -> bool:
        """Held: _inserting."""
        with self._changed:
            now = time.monotonic()
            duplicate = self._table.is_duplicate(writer_id, sequence)
            in_turn = self._reservations.holds(writer_id, now) or not self.waiting_inserts
            if not duplicate and not (in_turn and self._may_insert(encoded.num_transitions, now, writer_id=writer_id)):
                return False
        if self._log is not None and not duplicate:
            self._metrics.increment("replay_log_bytes_total", self._log.append(encoded))
        with self._changed:
            self._table.insert(encoded.chunk, writer_id=writer_id, sequence=sequence, now=time.monotonic())
            self._changed.notify_all()
            self.waiting_samples.call_next()
        if duplicate:
            self._metrics.increment("replay_duplicate_inserts_total")
        elif self.config.name == LOGGED_TABLE:
            self._metrics.increment("replay_inserts_total", encoded.num_transitions)
        return True

    def _count_samples(self, draw: TableDraw, stats: TableStats) -> None:
        self._metrics.increment("replay_samples_total", len(draw.slot))
        if stats.flow.samples_per_insert is not None:
            self._metrics.set("replay_samples_per_insert", stats.samples_per_insert)

    def _stats(self) -> TableStats:
        """Held: _changed."""
        return replace(self._table.stats(), num_refused_chunks=self._num_refused, num_inserted_before=self._num_before)
