"""Batches out of several shards: ask each for its share, together, and put the replies into the batches."""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

import numpy as np

from replay_service.client.allocation import shares, split_batch
from replay_service.client.batch_builder import BatchFilling, KeyReply, Reply, WindowReply
from replay_service.client.mapped_arena import MappedArena
from replay_service.client.membership import CALL_SECONDS, Membership, Shards
from replay_service.client.shard_client import ShardClient
from replay_service.table.table_stats import TableStats
from replay_service.table.types import SampledBatch, SampleRequest, Transport
from replay_service.wire import replay_pb2
from replay_service.wire.channel_options import MAX_BULK_BYTES
from replay_service.wire.codec import sample_row_bytes, view_to_message
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics

_Finish = Callable[[], tuple[Reply, TableStats]]
_Request = tuple[int, _Finish]
"""Transitions asked for, and what waits for them."""

_ROWS_PER_REQUEST: Final = 1024  # larger draws are several requests: the shard works on one while we copy another


class BatchDrawer:
    """Draws batches from the shards that `members` knows. Thread-safe.

    Args:
      transport: how windows may come.
      packed: their frames may come compressed.
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

    def draw(self, table: str, request: SampleRequest, shards: Shards) -> list[SampledBatch] | None:
        """Draws from these shards by their masses. None if none of them has anything to give.

        The draws of all batches are made together and dealt out at random, so each batch is as if drawn by itself.
        Where a shard fails, has been restarted or turns out to be empty, all its draws are made again by the others;
        the batches are then what they would have given without it. So are draws whose slot was overwritten before it
        could be read.
        """
        width, rng = annotation_width(table, shards), None
        if request.draw_seed is not None:
            rng = seeded_generator(request.draw_seed, 0)
        batches = [
            BatchFilling(request.batch_size, self._spec, request.view, request.allocate, annotation_width=width)
            for _ in range(request.num_batches)
        ]
        filled = self.fill(table, batches, shards=shards, view=request.view, rng=rng)
        if filled is None:
            return None
        share, num_items = filled
        return [batch.finish(share, num_items, request.importance_sampling_exponent) for batch in batches]

    def fill(
        self,
        table: str,
        batches: Sequence[BatchFilling],
        *,
        shards: Shards,
        view: View,
        rng: np.random.Generator | None = None,
    ) -> tuple[dict[int, float], int] | None:
        """Fills batches, of any sizes, as `draw` says.

        Returns: the share of each shard in the mass of all, and N, transitions that could be drawn; None if none of
          these shards has anything to give.
        """
        masses = {index: stats.mass for index, (_, stats) in shards.items() if stats.mass > 0}
        num_items = {index: shards[index][1].num_drawable for index in masses}
        stratified = all(stats.stratified for _, stats in shards.values())
        while masses and (missing := np.array([batch.num_missing for batch in batches])).any():
            parts, target = shares(np.array(list(masses.values()))), np.repeat(np.arange(len(batches)), missing)
            with self._lock:
                own = rng or self._rng
                counts = split_batch(len(target), parts, own, stratified=stratified)
                if len(batches) > 1:  # a stratified draw is ordered, and a part of it would be a part of the table
                    target = own.permutation(target)
            asked = {index: count for index, count in zip(masses, counts.tolist(), strict=True) if count}
            for index, answer in self._ask(table, asked, shards, view, rng):
                if answer is None:
                    del masses[index], num_items[index]
                    for batch in batches:
                        batch.drop(index)
                else:
                    reply, num_items[index] = answer
                    self._deal(batches, index, reply, target[: reply.num_rows])
                    target = target[reply.num_rows :]
        if not masses:
            return None
        parts = shares(np.array(list(masses.values())))
        return dict(zip(masses, parts.tolist(), strict=True)), sum(num_items.values())

    def _deal(self, batches: Sequence[BatchFilling], index: int, reply: Reply, target: Array) -> None:
        """Puts a reply's transitions into the batches that `target` names, int64 [rows]."""
        num_torn = 0
        for number, batch in enumerate(batches):
            rows = np.flatnonzero(target == number)
            if len(rows):
                num_torn += batch.add(index, reply, rows)
        if num_torn and self._metrics is not None:
            self._metrics.increment("replay_torn_windows_total", num_torn)

    def _ask(
        self, table: str, counts: Mapping[int, int], shards: Shards, view: View, rng: np.random.Generator | None
    ) -> Generator[tuple[int, tuple[Reply, int] | None]]:
        """Asks shards for so many transitions each, all at once.

        Yields: each reply as soon as it is there, so that it is copied while the shards work on the others, with the
          transitions that its shard can draw from; None once for a shard that could not give all of its own.
        """
        waiting, lost = list[tuple[int, int, _Request]](), set[int]()
        for index, count in counts.items():
            client, stats = shards[index]
            try:
                begun = self._begin(client, table, count, stats, view, rng)
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                yield index, None
                continue
            waiting += [(number, index, request) for number, request in enumerate(begun)]
        for _, index, (size, finish) in sorted(waiting, key=lambda request: request[:2]):
            if index in lost:
                continue
            client, known = shards[index]
            try:
                reply, stats = finish()
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                whole = False
            else:
                self._members.observe(index, client, table, stats)
                # A shard restarted meanwhile names transitions of another arena: by the mapped one all would be torn.
                whole = reply.num_rows == size and stats.incarnation == known.incarnation
                if whole:
                    yield index, (reply, stats.num_drawable)
            if not whole:
                lost.add(index)
                yield index, None

    def _begin(
        self,
        client: ShardClient,
        table: str,
        count: int,
        known: TableStats,
        view: View,
        rng: np.random.Generator | None,
    ) -> list[_Request]:
        """Sends the requests for `count` transitions of one shard, and returns what waits for the replies."""
        arena = client.arena(table, known.incarnation, transport=self._transport, timeout_seconds=CALL_SECONDS)
        most = _ROWS_PER_REQUEST
        if rng is not None or (arena is None and not (self._packed and known.packed)):
            # With a seed always: how windows come must not decide how many requests a draw is.
            most = min(most, max(MAX_BULK_BYTES // sample_row_bytes(self._spec, view), 1))
        sizes = [min(most, count - begin) for begin in range(0, count, most)]
        priority, requests = self._members.max_priority(table), list[_Request]()
        for size in sizes:
            request = replay_pb2.SampleRequest(
                table=table, batch_size=size, view=view_to_message(view), max_priority=priority
            )
            if rng is not None:
                request.draw_seed = int(rng.integers(1 << 63))
            requests.append((size, self._send(client, request, arena, view)))
        return requests

    def _send(
        self, client: ShardClient, request: replay_pb2.SampleRequest, arena: MappedArena | None, view: View
    ) -> _Finish:
        if arena is not None:
            request.keys_only = True
            finish_draw = client.begin_draw(request, arena=arena, timeout_seconds=CALL_SECONDS)

            def finish_keys() -> tuple[Reply, TableStats]:
                columns, stats = finish_draw()
                return KeyReply(columns, arena, view), stats

            return finish_keys
        request.packed = self._packed
        finish_sample = client.begin_sample(request, timeout_seconds=CALL_SECONDS)

        def finish_windows() -> tuple[Reply, TableStats]:
            columns, packed, stats = finish_sample()
            return WindowReply(columns, packed), stats

        return finish_windows


def annotation_width(table: str, shards: Shards) -> int:
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


def seeded_generator(draw_seed: int, part: int) -> np.random.Generator:
    """The generator of one part of what is drawn with a seed, in [0, 2^64)."""
    return np.random.default_rng([draw_seed, part])
