"""A table: chunks in slots, their transitions drawn by priority. Pure: no lock, no clock, no global randomness."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from replay_service.storage.annotations import Annotations
from replay_service.storage.packed_storage import PackedStorage
from replay_service.table.contents import TableContents, ages, histogram, policy_versions, show
from replay_service.table.rate_limiter import Flow
from replay_service.table.recent_inserts import RecentInserts
from replay_service.table.sampler import PrioritySampler
from replay_service.table.scan import next_items
from replay_service.table.table_stats import TableStats
from replay_service.table.tiers import copy_transitions, make_storage
from replay_service.table.types import ScanCursor, TableConfig, TableDraw, TableSample
from replay_service.table.validation import check_config, check_keys, num_slots_of
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, Chunk, ChunkSpec
from upcycle.experience.windows import View, valid_starts


class Table:
    """Slots are filled in order and overwritten from the oldest on; item `slot x steps + offset` is a transition.

    Which items can be drawn depends on the n-step length of the view. The table keeps that of the last request; a
    request with another one costs a pass over all stored rows (milliseconds), so callers of one table should agree.

    Args:
      rng: draws without a generator of their own are a function of it and of the calls.
      first_generation: generations count up from here. Give every incarnation of a table another range, so that keys of
        the one before are recognised as stale.
      buffer: zeroed memory for the arena of the tier "raw", of `num_slots_of(config, spec)` slots; None takes its own.
    Raises: UserError for a configuration under which inserts or samples would wait for ever.
    """

    def __init__(
        self,
        config: TableConfig,
        spec: ChunkSpec,
        *,
        rng: np.random.Generator,
        first_generation: int = 1,
        buffer: memoryview | None = None,
    ) -> None:
        check_config(config, spec)
        self.config, self.spec = config, spec
        num_slots = num_slots_of(config, spec)
        self._storage = make_storage(config, spec, num_slots, buffer=buffer)
        exponent = config.priority_exponent if config.sampler == "proportional" else 0.0
        self._sampler = PrioritySampler(num_slots * spec.steps, exponent, rng=rng, stratified=config.stratified)
        self._num_transitions = np.zeros(num_slots, np.int64)  # by slot
        self._stored_seconds = np.full(num_slots, math.nan)  # by slot
        self._flow = Flow(config.samples_per_insert, config.error_buffer_steps, config.min_size_to_sample)
        self._recent = RecentInserts()
        self._first_generation = self._next_generation = first_generation
        self._next_slot, self._n_step = 0, 1
        self._num_seeded = self._num_stale = self._num_duplicates = self._revision = 0
        self._num_annotated = self._num_stale_annotations = 0

    def may_insert(self, num_transitions: int) -> bool:
        """Whether the limiter lets so many transitions in now."""
        return self._flow.may_insert(num_transitions)

    def may_sample(self) -> bool:
        """Whether the limiter has room for a sample."""
        return self._flow.room_for_samples(1) > 0

    def admit_samples(self, wanted: int) -> int:
        """Counts as many samples, of so many, as the limiter has room for, and returns how many that are."""
        room = self._flow.room_for_samples(wanted)
        self._flow = self._flow.after_sample(room)
        return room

    def drain(self, draining: bool) -> None:
        """Takes no more inserts from now on, or takes them again; everything else goes on."""
        if draining != self._flow.draining:
            self._flow = self._flow.after_drain(draining)
            self._revision += 1

    def is_duplicate(self, writer_id: str, sequence: int) -> bool:
        """Whether this insert has been accepted before."""
        return (writer_id, sequence) in self._recent

    def insert(self, chunk: Chunk, *, writer_id: str, sequence: int, now: float = math.nan) -> bool:
        """Stores a chunk, at `now` if known; returns whether it is new. A duplicate changes nothing but its counter.

        The caller has asked `may_insert`.
        """
        if self.is_duplicate(writer_id, sequence):
            self._num_duplicates += 1
            return False
        self._store(chunk, self._flow.after_insert, now)
        self._recent.add(writer_id, sequence)
        return True

    def seed(self, chunk: Chunk) -> int:
        """Stores a chunk from a log, which the limiter does not count as inserted; returns its transitions."""
        num_transitions = self._store(chunk, self._flow.after_seed, math.nan)
        self._num_seeded += num_transitions
        return num_transitions

    def draw(self, batch_size: int, view: View, *, rng: np.random.Generator | None = None) -> TableDraw:
        """Draws transitions with replacement.

        Args:
          rng: draws with this generator and leaves the table's own alone.
        Returns: `batch_size` transitions, or none if nothing can be drawn with this view.
        Raises: ValueError if chunks of this table cannot be seen this way.
        """
        view.check(self.spec)
        self.set_n_step(view.n_step)
        items, probability = np.zeros(0, np.int64), np.zeros(0, np.float64)
        if self._sampler.mass > 0 and batch_size > 0:
            items, probability = self._sampler.draw(batch_size, rng=rng)
        slot, offset = np.divmod(items, self.spec.steps)
        if self.config.samples_per_insert is None:  # else they have been counted when they were admitted
            self._flow = self._flow.after_sample(len(items))
        return TableDraw(slot, offset, self._storage.generation[slot], probability)

    def sample(
        self, batch_size: int, view: View, *, packed: bool = False, rng: np.random.Generator | None = None
    ) -> TableSample:
        """Draws like `draw` and copies the windows; compressed ones, if `packed` and the tier has them so."""
        return copy_transitions(self._storage, self.draw(batch_size, view, rng=rng), view, packed=packed)

    def scan(
        self, cursor: ScanCursor, limit: int, view: View, *, only_missing: bool, packed: bool = False
    ) -> tuple[TableSample, ScanCursor, bool]:
        """The next transitions of a pass, at most `limit`, in the order in which they were stored; changes nothing.

        Over all calls that hand the cursor on, each transition that can be drawn with this view comes once, except for
        those that are overwritten before their turn and those that were stored after the first call.

        Args:
          only_missing: leaves out states that are annotated.
        Returns: the transitions, each of probability 1, the cursor of the next call, and whether the pass has ended.
        Raises: ValueError for an impossible view; UserError for `only_missing` of a table without annotations.
        """
        view.check(self.spec)
        annotations = self._annotations() if only_missing else None

        def wanted(slots: Array) -> Array:
            valid = self._valid(slots, view.n_step)
            return valid if annotations is None else valid & ~annotations.annotated[slots]

        generation = self._storage.generation
        slot, offset, following, ended = next_items(generation, self._next_slot, cursor, limit, wanted)
        draw = TableDraw(slot, offset, generation[slot], np.ones(len(slot)))
        return copy_transitions(self._storage, draw, view, packed=packed), following, ended

    def update_priorities(self, slots: Array, offsets: Array, generations: Array, priorities: Array) -> int:
        """Gives transitions new priorities, float64 [B]; of one that is named twice the last stays.

        Returns: how many were dropped because their slot holds another chunk by now.
        Raises: ValueError if a key lies outside the table or a priority is not finite and above 0.
        """
        if not bool(((priorities > 0) & np.isfinite(priorities)).all()):
            raise ValueError("priorities must be finite and above 0")
        check_keys(slots, offsets, self._storage.num_slots, self.spec.steps)
        current = self._storage.generation[slots] == generations
        self._sampler.update((slots * self.spec.steps + offsets)[current], priorities[current])
        num_stale = len(slots) - int(np.count_nonzero(current))
        self._num_stale += num_stale
        return num_stale

    def annotate(self, slots: Array, offsets: Array, generations: Array, values: Array) -> int:
        """Writes values, float32 [B, annotation_width], beside states; they stay until their slot is overwritten.

        A state may be annotated again with the same values. Other values are against the contract: whoever reads the
        arena meanwhile may see some of each.

        Returns: how many were dropped because their slot holds another chunk by now.
        Raises: UserError if the table keeps none; ValueError if a key lies outside it or a value is not finite.
        """
        annotations = self._annotations()
        if not bool(np.isfinite(values).all()):
            raise ValueError("annotations must be finite")
        check_keys(slots, offsets, self._storage.num_slots, self.spec.steps)
        current = self._storage.generation[slots] == generations
        self._num_annotated += annotations.write(slots[current], offsets[current], values[current])
        num_stale = len(slots) - int(np.count_nonzero(current))
        self._num_stale_annotations += num_stale
        return num_stale

    def set_n_step(self, n_step: int) -> None:
        """Lets exactly those transitions be drawn that are valid with this horizon."""
        if n_step != self._n_step:
            self._n_step = n_step
            self._sampler.mask(self._valid(slice(None), self._n_step).reshape(-1))

    def raise_max_priority(self, priority: float) -> None:
        """Takes note of a priority that another shard has seen, so that new chunks rank alike everywhere."""
        self._sampler.raise_max_priority(priority)

    def stats(self) -> TableStats:
        """Counters as of now."""
        return TableStats(
            flow=self._flow,
            capacity_steps=self._storage.num_slots * self.spec.steps,
            num_chunks=min(self._next_generation - self._first_generation, self._storage.num_slots),
            num_drawable=self._sampler.num_valid,
            mass=self._sampler.mass,
            max_priority=self._sampler.max_priority,
            num_seeded=self._num_seeded,
            num_stale_updates=self._num_stale,
            num_duplicate_chunks=self._num_duplicates,
            revision=self._revision,
            stratified=self.config.stratified,
            packed=isinstance(self._storage, PackedStorage),
            incarnation=self._first_generation,
            annotation_width=self.config.annotation_width,
            num_annotated=self._num_annotated,
            num_stale_annotations=self._num_stale_annotations,
            n_step=self._n_step,
        )

    def oldest_seconds(self, now: float) -> float:
        """How long ago the oldest chunk came; not a number if that is unknown (it was seeded) or there is none."""
        return now - float(self._stored_seconds[self._next_slot if self._storage.generation[self._next_slot] else 0])

    def inspect(self, num_windows: int, view: View, *, now: float, rng: np.random.Generator) -> TableContents:
        """What the table holds, in one pass over its priorities. Changes nothing.

        Args:
          num_windows: windows drawn by priority with `rng`; fewer come back where those drawn are not valid with the
            n-step length of `view`, and none while nothing can be drawn.
        Raises: ValueError if chunks of this table cannot be seen this way.
        """
        view.check(self.spec)
        priorities = self._sampler.priorities
        stalest, newest = policy_versions(self._storage, self._num_transitions > 0)
        return TableContents(
            reserved_bytes=self._storage.memory_bytes,
            held_bytes=self._storage.held_bytes,
            priorities=histogram(priorities[self._sampler.valid & (priorities > 0)]),
            ages=ages(self._num_transitions, self._storage.generation, self._stored_seconds, now),
            stalest_policy_version=stalest,
            newest_policy_version=newest,
            shown=show(self._storage, self._pick(num_windows, view.n_step, rng), priorities, view),
        )

    def _pick(self, num_windows: int, n_step: int, rng: np.random.Generator) -> Array:
        """Items drawn without a trace, those that are valid with `n_step`, int64 [at most num_windows]."""
        if not num_windows or self._sampler.mass == 0:
            return np.zeros(0, np.int64)
        items, _ = self._sampler.draw(num_windows, rng=rng)
        slot, offset = np.divmod(items, self.spec.steps)
        return items[self._valid(slot, n_step)[np.arange(len(slot)), offset]]

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that chunks, priorities and their index take now (the tier "raw": once it is full)."""
        return self._storage.memory_bytes + self._sampler.memory_bytes + self._num_transitions.nbytes

    def check_invariants(self) -> None:
        """Raises AssertionError if parts of the table contradict each other. For tests; takes a pass over all rows."""
        self._sampler.check_invariants()
        filled = self._storage.num_rows > 0
        assert self._flow.num_transitions == int(self._num_transitions.sum()), "size is not the sum over the slots"
        assert not self._num_transitions[~filled].any(), "an empty slot holds transitions"
        generations = self._storage.generation[filled]
        assert len(np.unique(generations)) == len(generations), "two slots of one generation"
        assert bool((generations < self._next_generation).all()), "a generation from the future"
        in_order = np.roll(self._storage.generation, -self._next_slot)
        assert bool((np.diff(in_order[in_order > 0]) > 0).all()), "slots are not in order of age"
        if (annotations := self._storage.annotations) is not None:
            assert self._num_annotated == np.count_nonzero(annotations.annotated), "annotations are miscounted"
            assert not annotations.annotated[~filled].any(), "an empty slot is annotated"
        valid = self._valid(slice(None), self._n_step).reshape(-1)
        assert np.array_equal(self._sampler.valid, valid), "wrong items can be drawn"

    def _store(self, chunk: Chunk, count: Callable[[int], Flow], now: float) -> int:
        """Overwrites the oldest slot; `count` is the flow's method that counts the transitions coming in."""
        slot, spec, num_transitions = self._next_slot, self.spec, chunk.num_transitions(self.spec)
        # First: a full disk must change nothing.
        self._num_annotated -= self._storage.write(slot, chunk, generation=self._next_generation)
        self._flow = count(num_transitions).after_eviction(int(self._num_transitions[slot]))
        self._num_transitions[slot], self._stored_seconds[slot] = num_transitions, now
        usable = self._storage.columns["priority"][slot, spec.history : spec.history + spec.steps]
        self._sampler.put(slot * spec.steps, usable, self._valid(slice(slot, slot + 1), self._n_step)[0])
        self._next_generation += 1
        self._next_slot = (slot + 1) % self._storage.num_slots
        if self._next_slot == 0:  # Full: as large as it will ever be, however short its chunks are.
            self._flow = replace(self._flow, min_size_to_sample=0)
        self._revision += 1
        return num_transitions

    def _annotations(self) -> Annotations:
        """Raises: UserError if the table keeps none."""
        if self._storage.annotations is None:
            problem = f"the table {self.config.name!r} keeps no annotations"
            raise UserError("annotation_width", 0, problem, "start it with the floats of one annotation")
        return self._storage.annotations

    def _valid(self, slots: slice | Array, n_step: int) -> Array:
        columns = {name: self._storage.columns[name][slots] for name in ("terminated", "truncated", "priority")}
        return valid_starts(self.spec, columns, self._storage.num_rows[slots], n_step)
