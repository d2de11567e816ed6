"""Counters of a table, of one shard or of all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from replay_service.table.rate_limiter import Flow

_Value = TypeVar("_Value", int, float, bool)


def _counter(default: _Value, total: Callable[[list[_Value]], _Value] = sum) -> _Value:
    """A field of `TableStats`; `total` makes the value of all shards from the value of each."""
    return field(default=default, metadata={"total": total})


@dataclass(frozen=True, slots=True)
class TableStats:
    """Counters of one table: of a shard, or of all shards added up.

    A new counter is a line here and a field of the same name in `TableState` (wire/replay.proto).

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
    capacity_steps: int = _counter(0)
    num_chunks: int = _counter(0)
    num_drawable: int = _counter(0)
    mass: float = _counter(0.0)
    max_priority: float = _counter(1.0, max)
    num_seeded: int = _counter(0)
    num_stale_updates: int = _counter(0)
    num_duplicate_chunks: int = _counter(0)
    num_refused_chunks: int = _counter(0)
    revision: int = _counter(0)
    num_dropped_updates: int = _counter(0)
    stratified: bool = _counter(True, all)
    packed: bool = _counter(False, all)
    incarnation: int = 0
    annotation_width: int = _counter(0, max)
    num_annotated: int = _counter(0)
    num_stale_annotations: int = _counter(0)
    n_step: int = _counter(0, max)
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
    first, *others = every = list(shards.values())
    totals: dict[str, Any] = {
        counter.name: counter.metadata["total"]([getattr(stats, counter.name) for stats in every])
        for counter in fields(TableStats)
        if "total" in counter.metadata
    }
    return TableStats(flow=sum((stats.flow for stats in others), first.flow), **totals, shards=dict(shards))
