"""One batch out of several shards: ask each for its share, together, and put the replies into one batch."""

import threading
from collections.abc import Mapping

import numpy as np

from replay_service.allocation import importance_weights, shares, split_batch
from replay_service.client import ShardClient, ShardSlow, ShardUnavailable
from replay_service.membership import CALL_SECONDS, Membership
from replay_service.options import MAX_BULK_BYTES
from replay_service.types import SampledBatch, TableStats, TransitionKeys
from replay_service.wire import sample_layout, sample_row_bytes
from upcycle.chunks import Array, ChunkSpec
from upcycle.windows import View, Windows

_Columns = dict[str, Array]


class BatchDrawer:
    """Draws batches from the shards that `members` knows. Thread-safe."""

    def __init__(self, members: Membership, spec: ChunkSpec, *, rng: np.random.Generator) -> None:
        self._members, self._spec, self._rng = members, spec, rng
        self._lock = threading.Lock()  # guards rng

    def draw(
        self,
        table: str,
        batch_size: int,
        *,
        shards: Mapping[int, tuple[ShardClient, TableStats]],
        view: View,
        importance_sampling_exponent: float,
    ) -> SampledBatch | None:
        """Draws from these shards by their masses. None if none of them has anything to give.

        Where a shard fails, or turns out to be empty, all its draws are made again by the others; the batch is then
        what they would have given without it.
        """
        drawn: dict[int, list[_Columns]] = {index: [] for index, (_, stats) in shards.items() if stats.mass > 0}
        masses = {index: stats.mass for index, (_, stats) in shards.items()}
        num_items = {index: stats.num_drawable for index, (_, stats) in shards.items()}
        stratified = all(stats.stratified for _, stats in shards.values())
        while drawn and (missing := batch_size - sum(map(_num_rows, drawn.values()))):
            with self._lock:
                parts = shares(np.array([masses[index] for index in drawn]))
                counts = split_batch(missing, parts, self._rng, stratified=stratified)
            asked = {index: count for index, count in zip(drawn, counts.tolist(), strict=True) if count}
            for index, reply in self._ask(table, asked, shards, view).items():
                if reply is None:
                    del drawn[index]
                    continue
                columns, stats = reply
                drawn[index] += columns
                num_items[index] = stats.num_drawable
        if not drawn:
            return None
        parts = shares(np.array([masses[index] for index in drawn]))
        share = dict(zip(drawn, parts.tolist(), strict=True))
        total = sum(num_items[index] for index in drawn)
        return self._assemble(drawn, share, batch_size, total, view, importance_sampling_exponent)

    def _ask(
        self,
        table: str,
        counts: Mapping[int, int],
        shards: Mapping[int, tuple[ShardClient, TableStats]],
        view: View,
    ) -> dict[int, tuple[list[_Columns], TableStats] | None]:
        """Asks shards for so many transitions each, all at once; None where one could not give them all."""
        max_rows = max(MAX_BULK_BYTES // sample_row_bytes(self._spec, view), 1)
        waiting = {
            index: [
                shards[index][0].begin_sample(
                    table,
                    min(max_rows, count - begin),
                    view=view,
                    max_priority=self._members.max_priority(table),
                    timeout_seconds=CALL_SECONDS,
                )
                for begin in range(0, count, max_rows)
            ]
            for index, count in counts.items()
        }
        replies = dict[int, tuple[list[_Columns], TableStats] | None]()
        for index, finishers in waiting.items():
            client = shards[index][0]
            try:
                results = [finish() for finish in finishers]
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                replies[index] = None
                continue
            self._members.observe(index, client, table, results[-1][1])
            columns = [columns for columns, _ in results]
            replies[index] = (columns, results[-1][1]) if _num_rows(columns) == counts[index] else None
        return replies

    def _assemble(
        self,
        drawn: Mapping[int, list[_Columns]],
        share: Mapping[int, float],
        batch_size: int,
        num_items: int,
        view: View,
        exponent: float,
    ) -> SampledBatch:
        batch = {
            name: np.empty((batch_size, *shape), dtype)
            for name, (dtype, shape) in sample_layout(self._spec, view).items()
        }
        shard, begin = np.empty(batch_size, np.int64), 0
        for index, replies in drawn.items():
            for columns in replies:
                rows = slice(begin, begin + len(columns["slot"]))
                for name, column in columns.items():
                    batch[name][rows] = column  # the only copy between the message and the learner's batch
                batch["probability"][rows] *= share[index]
                shard[rows] = index
                begin = rows.stop
        return SampledBatch(
            windows=Windows(batch["frames"], batch["action"], batch["n_step_return"], batch["discount"]),
            keys=TransitionKeys(shard, batch["slot"], batch["offset"], batch["generation"]),
            probabilities=batch["probability"],
            importance_weights=importance_weights(batch["probability"], num_items, exponent),
            policy_version=batch["policy_version"],
        )


def _num_rows(replies: list[_Columns]) -> int:
    return sum(len(columns["slot"]) for columns in replies)
