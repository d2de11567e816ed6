"""Values that the replay service and its callers exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from replay_service.packed_windows import PackedWindows
from replay_service.rate_limiter import Flow
from upcycle.chunks import Array
from upcycle.errors import UpcycleError
from upcycle.windows import Windows

Transport = Literal["auto", "unix", "tcp"]
"""How windows reach a client: the quickest way there is (shared memory, else a Unix socket on the same host, else TCP),
or no quicker one than the one named."""


class ReplayTimeout(UpcycleError):
    """Replay did not take or give in time: the limiter held the call back, or shards are away. Repeating is safe."""


Tier = Literal["raw", "warm", "cold"]
"""Frames as they are; in LZ4 blocks, decoded window by window; or chunk by chunk in zstd."""


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
      tier: how frames are kept, see `replay_service.tiers`.
      cold_folder: where the tier "cold" keeps them in files; None keeps them in memory.
      cold_cache_bytes: frames of recently sampled chunks that the tier "cold" keeps decoded.
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


@dataclass(frozen=True, slots=True, eq=False)
class TransitionKeys:
    """Where transitions lie; the generation tells whether they still do. All int64 [B]."""

    shard: Array
    slot: Array
    offset: Array
    generation: Array


@dataclass(frozen=True, slots=True, eq=False)
class SampledBatch:
    """B transitions drawn from all shards together.

    Attributes:
      windows: the transitions.
      keys: where they lie, for `update_priorities`.
      probabilities: P(i) of one draw among the transitions of all shards, float64 [B].
      importance_weights: (N P(i))^-beta divided by the largest of the batch, float32 [B], in (0, 1].
      policy_version: int64 [B], version of the policy that acted.
    """

    windows: Windows
    keys: TransitionKeys
    probabilities: Array
    importance_weights: Array
    policy_version: Array


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
      packed: the frames in LZ4 blocks, where that was asked for and they are stored so.
    """

    draw: TableDraw
    windows: Windows
    policy_version: Array
    packed: PackedWindows | None = None


@dataclass(frozen=True, slots=True)
class TableStats:
    """Counters of one table: of a shard, or of all shards added up.

    Attributes:
      flow: transitions in and out, and the limits on them.
      capacity_steps: transitions kept at the most.
      num_chunks: chunks stored.
      num_drawable: transitions that can be drawn with the n-step length of the last request.
      mass: sum of priority^exponent over them.
      max_priority: the highest priority ever seen.
      num_seeded: transitions seeded since the start.
      num_stale_updates: priority updates dropped because their slot had been overwritten, that is, came too late.
      num_duplicate_chunks: chunks that had been inserted before.
      num_refused_chunks: chunks that failed verification.
      revision: grows with every insert and seed, and when the shard begins or ceases to drain.
      num_dropped_updates: priority updates that this client gave up, because their shard was away; 0 at a shard.
      stratified: see `TableConfig`.
      incarnation: another one after each start of the shard; its counters begin anew with it. 0 in a sum.
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
    incarnation: int = 0
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
        shards=dict(shards),
    )
