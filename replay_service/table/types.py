"""Values that the replay service and its callers exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from replay_service.storage.packed_windows import PackedWindows
from replay_service.table.rate_limiter import Flow
from upcycle.errors import UpcycleError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import Windows

Transport = Literal["auto", "unix", "tcp"]
"""How windows reach a client: the quickest way there is (shared memory, else a Unix socket on the same host, else TCP),
or no quicker one than the one named."""


class ReplayTimeout(UpcycleError):
    """Replay did not take or give in time, for want of what `waits_for` says (`waits`). Repeating is safe."""

    def __init__(self, problem: str, waits_for: Literal["shards", "room", "samples"] = "shards") -> None:
        super().__init__(problem)
        self.waits_for: Final = waits_for


Tier = Literal["raw", "warm", "cold"]
"""Frames as they are, in LZ4 blocks, or in zstd groups; see `replay_service.storage.packed_storage`."""


@dataclass(frozen=True, slots=True)
class TableConfig:
    """One table of one shard. Sizes are this shard's shares, in agent steps.

    Attributes:
      name: what requests call it.
      capacity_steps: transitions kept; the oldest chunk leaves first. Rounded up to whole chunks.
      sampler: "uniform", or "proportional" to priority^priority_exponent.
      priority_exponent: alpha in [0, 1]; ignored by "uniform".
      stratified: one draw from each of as many equal parts of the mass as are asked for, instead of independent draws;
        the expected batch is the same, its spread is smaller.
      samples_per_insert: transitions sampled per transition inserted; None is no limiter.
      error_buffer_steps: inserts that both sides may be apart from that ratio.
      min_size_to_sample: transitions stored before the first is sampled.
      tier: how frames are kept, see `replay_service.storage.packed_storage`.
      cold_folder: where the tier "cold" keeps them in files; None keeps them in memory.
      cold_cache_bytes: compressed chunks read from those files last that are kept in memory.
      annotation_width: floats that a stored state can be annotated with; 0 is none.
    """

    name: str
    capacity_steps: int
    sampler: Literal["uniform", "proportional"] = "uniform"
    priority_exponent: float = 0.5
    stratified: bool = True
    samples_per_insert: float | None = None
    error_buffer_steps: int = 0
    min_size_to_sample: int = 1
    tier: Tier = "raw"
    cold_folder: str | None = None
    cold_cache_bytes: int = 64 << 20
    annotation_width: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TransitionKeys:
    """Where transitions lie; the generation tells whether they still do.

    Attributes:
      shard, slot, offset, generation: int64 [B].
      table: which of `tables` each is of, int64 [B]; None if all are of the one table that was asked.
      tables: the names that `table` counts, of a mixture.
    """

    shard: Array
    slot: Array
    offset: Array
    generation: Array
    table: Array | None = None
    tables: tuple[str, ...] = ()

    def take(self, rows: Array) -> "TransitionKeys":
        """Some of them, by their numbers or a mask, all of one table: which one is left out."""
        return TransitionKeys(self.shard[rows], self.slot[rows], self.offset[rows], self.generation[rows])

    def choose(self, rows: Array) -> "TransitionKeys":
        """Some of them, by their numbers or a mask; those of a mixture still name their tables."""
        table = None if self.table is None else self.table[rows]
        return replace(self.take(rows), table=table, tables=self.tables)

    def by_table(self, table: str | None) -> list[tuple[str, Array]]:
        """Each table with the rows of its keys, int64.

        Args:
          table: of keys that do not name theirs; None for those of a mixture, which do.
        Raises: ValueError if the table is named twice or not at all.
        """
        if (table is None) == (self.table is None):
            raise ValueError("name the table of keys that come from one table, and no table for keys of a mixture")
        if self.table is None:
            return [(str(table), np.arange(len(self.slot)))]
        rows = [(name, np.flatnonzero(self.table == number)) for number, name in enumerate(self.tables)]
        return [(name, mine) for name, mine in rows if len(mine)]


@dataclass(frozen=True, slots=True, eq=False)
class SampledBatch:
    """B transitions drawn from all shards together, of one table or of a mixture.

    Attributes:
      windows: the transitions.
      keys: where they lie, for `update_priorities` and `annotate`.
      probabilities: P(i) of one draw among the transitions of all shards, float64 [B]; in a mixture times the share of
        the row's table.
      importance_weights: (N P(i))^-beta divided by the largest of the batch, float32 [B], in (0, 1]; in a mixture N and
        P(i) are those of the row's table by itself.
      policy_version: int64 [B], version of the policy that acted.
      annotation: of each row's first state, float32 [B, annotation_width], 0 where it has none; None if no table of the
        batch has annotations.
      annotated: which rows have one, bool [B]; None like `annotation`.
      largest_weight: the largest (N P(i))^-beta. Parts of a batch that were drawn apart are normalised together by
        importance_weights x largest_weight / (the largest of the parts' largest weights).
    """

    windows: Windows
    keys: TransitionKeys
    probabilities: Array
    importance_weights: Array
    policy_version: Array
    annotation: Array | None = None
    annotated: Array | None = None
    largest_weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ScannedBatch:
    """B transitions of one table in the order in which they were stored; attributes as in `SampledBatch`."""

    windows: Windows
    keys: TransitionKeys
    policy_version: Array
    annotation: Array | None = None
    annotated: Array | None = None


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """Where a pass over one incarnation of a table goes on; the one of all zeros is its beginning.

    Attributes:
      generation: of the next chunk to look at, or of the oldest younger one if it is gone.
      offset: of the first transition to look at in that very chunk.
      last_generation: the pass ends after it; 0 stands for the newest chunk that there is.
    """

    generation: int = 0
    offset: int = 0
    last_generation: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TableDraw:
    """B transitions drawn from one table, by name.

    Attributes:
      slot, offset, generation: where they lie, int64 [B].
      probability: of one draw from this table, float64 [B].
    """

    slot: Array
    offset: Array
    generation: Array
    probability: Array


@dataclass(frozen=True, slots=True, eq=False)
class TableSample:
    """B transitions drawn from one table, with what they hold.

    Attributes:
      draw: which transitions.
      windows: the transitions; without frames, [B, 0], where `packed` holds them.
      policy_version: int64 [B].
      packed: the frames compressed, where that was asked for and they are stored so.
      annotation, annotated: as in `SampledBatch`.
    """

    draw: TableDraw
    windows: Windows
    policy_version: Array
    packed: PackedWindows | None = None
    annotation: Array | None = None
    annotated: Array | None = None


@dataclass(frozen=True, slots=True)
class TableStats:
    """Counters of one table: of a shard, or of all shards added up.

    Attributes:
      flow: transitions in and out, and the limits on them.
      capacity_steps: transitions kept at the most.
      num_chunks: chunks stored.
      num_drawable: transitions that can be drawn with the n-step length of the last request.
      n_step: that n-step length.
      num_inserted_before: transitions that earlier incarnations inserted, as the shard's log tells; None without a log.
      mass: sum of priority^exponent over them.
      max_priority: the highest priority ever seen.
      num_seeded: transitions seeded since the start.
      num_stale_updates: priority updates dropped because their slot had been overwritten, that is, came too late.
      num_duplicate_chunks: chunks that had been inserted before.
      num_refused_chunks: chunks that failed verification.
      revision: grows with every insert and seed, and when the shard begins or ceases to drain.
      num_dropped_updates: priority updates that this client gave up, because their shard was away; 0 at a shard.
      stratified: see `TableConfig`.
      packed: frames are kept compressed, in whichever way, and can be sent so.
      incarnation: another one after each start of the shard; its counters begin anew with it. 0 in a sum.
      annotation_width: see `TableConfig`.
      num_annotated: states that are annotated now.
      num_stale_annotations: annotations dropped because their slot had been overwritten.
      shards: the same by shard index; empty for a single shard.
    """

    flow: Flow
    capacity_steps: int = 0
    num_chunks: int = 0
    num_drawable: int = 0
    mass: float = 0.0
    max_priority: float = 1.0
    num_seeded: int = 0
    num_stale_updates: int = 0
    num_duplicate_chunks: int = 0
    num_refused_chunks: int = 0
    revision: int = 0
    num_dropped_updates: int = 0
    stratified: bool = True
    packed: bool = False
    incarnation: int = 0
    annotation_width: int = 0
    num_annotated: int = 0
    num_stale_annotations: int = 0
    n_step: int = 0
    num_inserted_before: int | None = None
    shards: Mapping[int, "TableStats"] = field(default_factory=dict[int, "TableStats"])

    @property
    def num_transitions(self) -> int:
        """Transitions stored."""
        return self.flow.num_transitions

    @property
    def num_inserted(self) -> int:
        """Transitions inserted since the start, without seeded ones."""
        return self.flow.num_inserted

    @property
    def num_sampled(self) -> int:
        """Transitions sampled since the start."""
        return self.flow.num_sampled

    @property
    def draining(self) -> bool:
        """Whether no more chunks are taken: by the shard, or by any of those added up."""
        return self.flow.draining

    @property
    def samples_per_insert(self) -> float:
        """Transitions sampled per transition that samples were owed for; 0 before the first."""
        return self.flow.num_sampled / self.flow.num_paced_inserts if self.flow.num_paced_inserts else 0.0


def total_stats(shards: Mapping[int, TableStats]) -> TableStats:
    """Adds up the shards of one table; there must be one at least."""
    first, *others = shards.values()
    flow = sum((stats.flow for stats in others), first.flow)
    every = list(shards.values())
    return TableStats(
        flow=flow,
        capacity_steps=sum(stats.capacity_steps for stats in every),
        num_chunks=sum(stats.num_chunks for stats in every),
        num_drawable=sum(stats.num_drawable for stats in every),
        mass=sum(stats.mass for stats in every),
        max_priority=max(stats.max_priority for stats in every),
        num_seeded=sum(stats.num_seeded for stats in every),
        num_stale_updates=sum(stats.num_stale_updates for stats in every),
        num_duplicate_chunks=sum(stats.num_duplicate_chunks for stats in every),
        num_refused_chunks=sum(stats.num_refused_chunks for stats in every),
        revision=sum(stats.revision for stats in every),
        stratified=all(stats.stratified for stats in every),
        packed=all(stats.packed for stats in every),
        annotation_width=max(stats.annotation_width for stats in every),
        num_annotated=sum(stats.num_annotated for stats in every),
        num_stale_annotations=sum(stats.num_stale_annotations for stats in every),
        n_step=first.n_step,
        shards=dict(shards),
    )
