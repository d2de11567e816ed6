"""Batches out of several shards: ask each for its share, together, and put the replies into the batches."""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from replay_service.allocation import shares, split_batch
from replay_service.batch_filling import Allocate, BatchFilling, KeyReply, Reply, WindowReply
from replay_service.client import ShardClient
from replay_service.failures import ShardSlow, ShardUnavailable
from replay_service.membership import CALL_SECONDS, Membership
from replay_service.options import MAX_BULK_BYTES
from replay_service.types import SampledBatch, TableStats, Transport
from replay_service.wire import sample_row_bytes
from upcycle.chunks import ChunkSpec
from upcycle.errors import UserError
from upcycle.metrics import Metrics
from upcycle.windows import View

_Shards = Mapping[int, tuple[ShardClient, TableStats]]


class BatchDrawer:
    """Draws batches from the shards that `members` knows. Thread-safe.

    Args:
      transport: how windows may come.
      packed: their frames may come in LZ4 blocks.
    """

    def __init__(
        self,
        members: Membership,
        spec: ChunkSpec,
        *,
        rng: np.random.Generator,
        transport: Transport,
        packed: bool,
        metrics: Metrics | None,
    ) -> None:
        self._members, self._spec, self._rng = members, spec, rng
        self._transport: Transport = transport
        self._packed = packed
        self._metrics = metrics
        self._lock = threading.Lock()  # guards rng

    def draw(
        self,
        table: str,
        batch_size: int,
        num_batches: int,
        *,
        shards: _Shards,
        view: View,
        importance_sampling_exponent: float,
        allocate: Allocate,
    ) -> list[SampledBatch] | None:
        """Draws from these shards by their masses. None if none of them has anything to give.

        The draws of all batches are made together and dealt out at random, so each batch is as if drawn by itself.
        Where a shard fails, has been restarted or turns out to be empty, all its draws are made again by the others;
        the batches are then what they would have given without it. So are draws whose slot was overwritten before it
        could be read.
        """
        width = annotation_width(table, shards)
        batches = [
            BatchFilling(batch_size, self._spec, view, allocate, annotation_width=width) for _ in range(num_batches)
        ]
        filled = self.fill(table, batches, shards=shards, view=view)
        if filled is None:
            return None
        share, num_items = filled
        return [batch.finish(share, num_items, importance_sampling_exponent) for batch in batches]

    def fill(
        self, table: str, batches: Sequence[BatchFilling], *, shards: _Shards, view: View
    ) -> tuple[dict[int, float], int] | None:
        """Fills batches, of any sizes, as `draw` says.

        Returns: the share of each shard in the mass of all, and N, transitions that could be drawn; None if none of
          these shards has anything to give.
        """
        masses = {index: stats.mass for index, (_, stats) in shards.items() if stats.mass > 0}
        num_items = {index: shards[index][1].num_drawable for index in masses}
        stratified = all(stats.stratified for _, stats in shards.values())
        while masses and (missing := sum(batch.num_missing for batch in batches)):
            with self._lock:
                counts = split_batch(missing, shares(np.array(list(masses.values()))), self._rng, stratified=stratified)
            asked = {index: count for index, count in zip(masses, counts.tolist(), strict=True) if count}
            replies = self._ask(table, asked, shards, view)
            for index, answer in replies.items():
                if answer is None:
                    del masses[index], num_items[index]
                    for batch in batches:
                        batch.drop(index)
                else:
                    num_items[index] = answer[1].num_drawable
            self._deal(batches, {index: answer[0] for index, answer in replies.items() if answer is not None})
        if not masses:
            return None
        parts = shares(np.array(list(masses.values())))
        return dict(zip(masses, parts.tolist(), strict=True)), sum(num_items.values())

    def _deal(self, batches: Sequence[BatchFilling], replies: Mapping[int, Sequence[Reply]]) -> None:
        """Puts the replies' transitions into the batches that miss some, in a random order."""
        num_rows = sum(reply.num_rows for parts in replies.values() for reply in parts)
        missing = np.array([batch.num_missing for batch in batches])
        target = np.repeat(np.arange(len(batches)), missing)
        if len(batches) > 1:  # a stratified draw is ordered, and a part of it would be a part of the table
            with self._lock:
                target = self._rng.permutation(target)
        target, begin, num_torn = target[:num_rows], 0, 0
        for index, parts in replies.items():
            for reply in parts:
                mine = target[begin : begin + reply.num_rows]
                begin += reply.num_rows
                for number, batch in enumerate(batches):
                    rows = np.flatnonzero(mine == number)
                    if len(rows):
                        num_torn += batch.add(index, reply, rows)
        if num_torn and self._metrics is not None:
            self._metrics.increment("replay_torn_windows_total", num_torn)

    def _ask(
        self, table: str, counts: Mapping[int, int], shards: _Shards, view: View
    ) -> dict[int, tuple[list[Reply], TableStats] | None]:
        """Asks shards for so many transitions each, all at once; None where one could not give them all."""
        replies = dict[int, tuple[list[Reply], TableStats] | None]()
        waiting = dict[int, list[Callable[[], tuple[Reply, TableStats]]]]()
        for index, count in counts.items():
            client, stats = shards[index]
            try:
                waiting[index] = self._begin(client, table, count, stats.incarnation, view)
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                replies[index] = None
        for index, finishers in waiting.items():
            client = shards[index][0]
            try:
                results = [finish() for finish in finishers]
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                replies[index] = None
                continue
            self._members.observe(index, client, table, results[-1][1])
            num_rows = sum(reply.num_rows for reply, _ in results)
            # A shard restarted meanwhile names transitions of another arena: by the mapped one all would be torn.
            whole = num_rows == counts[index] and results[-1][1].incarnation == shards[index][1].incarnation
            replies[index] = ([reply for reply, _ in results], results[-1][1]) if whole else None
        return replies

    def _begin(
        self, client: ShardClient, table: str, count: int, incarnation: int, view: View
    ) -> list[Callable[[], tuple[Reply, TableStats]]]:
        """Sends the requests for `count` transitions of one shard, and returns what waits for the replies."""
        priority = self._members.max_priority(table)
        arena = client.arena(table, incarnation, transport=self._transport, timeout_seconds=CALL_SECONDS)
        if arena is not None:
            finish_draw = client.begin_draw(
                table, count, arena=arena, view=view, max_priority=priority, timeout_seconds=CALL_SECONDS
            )

            def finish() -> tuple[Reply, TableStats]:
                columns, stats = finish_draw()
                return KeyReply(columns, arena, view), stats

            return [finish]

        def windows_of(size: int) -> Callable[[], tuple[Reply, TableStats]]:
            finish_sample = client.begin_sample(
                table, size, view=view, packed=self._packed, max_priority=priority, timeout_seconds=CALL_SECONDS
            )

            def finish() -> tuple[Reply, TableStats]:
                columns, packed, stats = finish_sample()
                return WindowReply(columns, packed), stats

            return finish

        max_rows = max(MAX_BULK_BYTES // sample_row_bytes(self._spec, view), 1)
        return [windows_of(min(max_rows, count - begin)) for begin in range(0, count, max_rows)]


def annotation_width(table: str, shards: _Shards) -> int:
    """Floats of an annotation in this table, 0 if it keeps none. Raises: UserError if the shards disagree."""
    widths = {index: stats.annotation_width for index, (_, stats) in shards.items()}
    if len(set(widths.values())) > 1:
        raise UserError(
            "annotation_width",
            widths,
            f"of the table {table!r} differs between the shards",
            "start all of them with the same configuration",
        )
    return next(iter(widths.values()), 0)
