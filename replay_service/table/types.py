"""Values that the replay service and its callers exchange."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from replay_service.storage.packed_windows import PackedWindows
from upcycle.errors import UpcycleError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View, Windows

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


Allocate = Callable[[tuple[int, ...], str], Array]
"""Gives an array of a shape and dtype, C-contiguous, for the frames of one batch."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SampleRequest:
    """Batches that a learner asks for.

    Attributes:
      tables: the name of one table; or the share of each in every batch of a mixture, summing to 1.
      batch_size: transitions of each batch.
      num_batches: batches drawn together, which share the cost of asking the shards; each is as if drawn by itself.
      view: how their windows are cut.
      importance_sampling_exponent: beta of the importance weights.
      timeout_seconds: how long the call may wait for the limiter or for shards.
      allocate: gives the memory for the frames of each batch.
      draw_seed: in [0, 2^63). All randomness of the draw comes from it, and no other draw is moved: of tables that stay
        as they are, two requests alike give the same batches, whatever tier, transport or client, also after shards
        have been killed and seeded again from the same logs. A shard that was lost a moment ago is waited for; one that
        stays away, or is lost during the call, is left out, and the batches are others then.
    """

    tables: str | Mapping[str, float]
    batch_size: int
    num_batches: int = 1
    view: View
    importance_sampling_exponent: float
    timeout_seconds: float
    allocate: Allocate = np.empty
    draw_seed: int | None = None


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
