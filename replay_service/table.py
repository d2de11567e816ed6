"""A table: chunks in slots, their transitions drawn by priority. Pure: no lock, no clock, no global randomness."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from replay_service.inspection import ShownWindows, TableContents, ages, histogram
from replay_service.rate_limiter import Flow
from replay_service.sampler import PrioritySampler
from replay_service.tiers import WarmStorage, make_storage
from replay_service.types import TableConfig, TableDraw, TableSample, TableStats
from replay_service.writers import RecentInserts
from upcycle.chunks import Array, Chunk, ChunkSpec
from upcycle.errors import UserError
from upcycle.windows import View, Windows, valid_starts, window_values


class Table:
    """Slots are filled in order and overwritten from the oldest on; item `slot x steps + offset` is a transition.

    Which items can be drawn depends on the n-step length of the view. The table keeps that of the last request; a
    request with another one costs a pass over all stored rows (milliseconds), so callers of one table should agree.

    Args:
      rng: draws are a function of it and of the calls.
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
        _check(config, spec)
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
        """Stores a chunk; a duplicate changes nothing but its counter. The caller has asked `may_insert`.

        Args:
          now: seconds on the clock of `inspect`, if known.
        Returns: whether the chunk is new.
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

    def draw(self, batch_size: int, view: View) -> TableDraw:
        """Draws transitions with replacement.

        Returns: `batch_size` transitions, or none if nothing can be drawn with this view.
        Raises: ValueError if chunks of this table cannot be seen this way.
        """
        view.check(self.spec)
        self.set_n_step(view.n_step)
        if self._sampler.mass > 0 and batch_size > 0:
            items, probability = self._sampler.draw(batch_size)
        else:
            items, probability = np.zeros(0, np.int64), np.zeros(0, np.float64)
        slot, offset = np.divmod(items, self.spec.steps)
        if self.config.samples_per_insert is None:  # else they have been counted when they were admitted
            self._flow = self._flow.after_sample(len(items))
        return TableDraw(slot, offset, self._storage.generation[slot], probability)

    def sample(self, batch_size: int, view: View, *, packed: bool = False) -> TableSample:
        """Draws like `draw` and copies the windows; compressed ones, if `packed` and the tier has them so."""
        draw = self.draw(batch_size, view)
        storage, place = self._storage, (draw.slot, draw.offset)
        policy_version = storage.columns["policy_version"][draw.slot, draw.offset + self.spec.history]
        if not packed or not isinstance(storage, WarmStorage):
            return TableSample(draw, storage.gather(*place, view), policy_version)
        frames = np.empty((len(draw.slot), 0), self.spec.frame_dtype)
        windows = Windows(frames, *window_values(self.spec, storage.columns, *place, view))
        return TableSample(draw, windows, policy_version, storage.windows(*place, view))

    def update_priorities(self, slots: Array, offsets: Array, generations: Array, priorities: Array) -> int:
        """Gives transitions new priorities, float64 [B]; of one that is named twice the last stays.

        Returns: how many were dropped because their slot holds another chunk by now.
        Raises: ValueError if a key lies outside the table or a priority is not finite and above 0.
        """
        if not bool(((priorities > 0) & np.isfinite(priorities)).all()):
            raise ValueError("priorities must be finite and above 0")
        inside = (slots >= 0) & (slots < self._storage.num_slots) & (offsets >= 0) & (offsets < self.spec.steps)
        if not bool(inside.all()):
            raise ValueError("keys lie outside the table")
        current = self._storage.generation[slots] == generations
        self._sampler.update((slots * self.spec.steps + offsets)[current], priorities[current])
        num_stale = len(slots) - int(np.count_nonzero(current))
        self._num_stale += num_stale
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
            num_chunks=int(np.count_nonzero(self._storage.num_rows)),
            num_drawable=self._sampler.num_valid,
            mass=self._sampler.mass,
            max_priority=self._sampler.max_priority,
            num_seeded=self._num_seeded,
            num_stale_updates=self._num_stale,
            num_duplicate_chunks=self._num_duplicates,
            revision=self._revision,
            stratified=self.config.stratified,
            incarnation=self._first_generation,
        )

    def inspect(self, num_windows: int, view: View, *, now: float, rng: np.random.Generator) -> TableContents:
        """What the table holds, in one pass over its priorities. Changes nothing.

        Args:
          num_windows: windows drawn by priority with `rng`; fewer come back where those drawn are not valid with the
            n-step length of `view`, and none while nothing can be drawn.
        Raises: ValueError if chunks of this table cannot be seen this way.
        """
        view.check(self.spec)
        usable = slice(self.spec.history, self.spec.history + self.spec.steps)
        priorities = self._sampler.priorities
        filled = self._num_transitions > 0
        columns = {name: self._storage.columns[name][filled, usable] for name in ("policy_version", "priority")}
        versions = columns["policy_version"][columns["priority"] > 0]
        return TableContents(
            reserved_bytes=self._storage.memory_bytes,
            held_bytes=self._storage.held_bytes,
            priorities=histogram(priorities[self._sampler.valid & (priorities > 0)]),
            ages=ages(self._num_transitions, self._storage.generation, self._stored_seconds, now),
            stalest_policy_version=int(versions.min()) if len(versions) else None,
            newest_policy_version=int(versions.max()) if len(versions) else None,
            shown=self._show(self._pick(num_windows, view.n_step, rng), view),
        )

    def _pick(self, num_windows: int, n_step: int, rng: np.random.Generator) -> Array:
        """Items drawn without a trace, those that are valid with `n_step`, int64 [at most num_windows]."""
        if not num_windows or self._sampler.mass == 0:
            return np.zeros(0, np.int64)
        items, _ = self._sampler.draw(num_windows, rng=rng)
        if n_step == self._n_step:
            return items
        slot, offset = np.divmod(items, self.spec.steps)
        return items[self._valid(slot, n_step)[np.arange(len(slot)), offset]]

    def _show(self, items: Array, view: View) -> ShownWindows:
        slot, offset = np.divmod(items, self.spec.steps)
        return ShownWindows(
            self._storage.gather(slot, offset, view),
            self._sampler.priorities[items],
            self._storage.columns["policy_version"][slot, offset + self.spec.history],
        )

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
        assert np.array_equal(self._sampler.valid, self._valid(slice(None), self._n_step).reshape(-1)), (
            "wrong items can be drawn"
        )

    def _store(self, chunk: Chunk, count: Callable[[int], Flow], now: float) -> int:
        """Overwrites the oldest slot; `count` is the flow's method that counts the transitions coming in."""
        slot, spec = self._next_slot, self.spec
        num_transitions = chunk.num_transitions(spec)
        self._storage.write(slot, chunk, generation=self._next_generation)  # first: a full disk must change nothing
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

    def _valid(self, slots: slice | Array, n_step: int) -> Array:
        columns = {name: self._storage.columns[name][slots] for name in ("terminated", "truncated", "priority")}
        return valid_starts(self.spec, columns, self._storage.num_rows[slots], n_step)


def num_slots_of(config: TableConfig, spec: ChunkSpec) -> int:
    """Slots of a table: its capacity in whole chunks."""
    return -(-config.capacity_steps // spec.steps)


def _check(config: TableConfig, spec: ChunkSpec) -> None:
    if config.capacity_steps < 1:
        raise UserError(
            "replay.capacity_steps", config.capacity_steps, "a table holds one transition at least", "raise it"
        )
    if config.min_size_to_sample > config.capacity_steps:
        raise UserError(
            "replay.min_size_to_sample",
            config.min_size_to_sample,
            f"is above the capacity of {config.capacity_steps} steps, so sampling would never begin",
            "lower it or raise replay.capacity_steps",
        )
    if config.samples_per_insert is not None and config.error_buffer_steps < spec.steps:
        raise UserError(
            "replay.error_buffer_steps",
            config.error_buffer_steps,
            f"is, as the share of one shard, below one chunk of {spec.steps} steps, which would never be let in",
            "raise it, or lower replay.num_shards or replay.chunk_steps",
        )
    if config.samples_per_insert is not None and config.error_buffer_steps * config.samples_per_insert < 1:
        raise UserError(
            "replay.error_buffer_steps",
            config.error_buffer_steps,
            f"is, at {config.samples_per_insert} samples per insert, below one sample: a shard could refuse both sides",
            "raise it, or lower replay.num_shards",
        )
