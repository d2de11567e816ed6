"""A pass over all shards of a table: each stored transition once, in order."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from replay_service.client.batch_builder import BatchFilling, WindowReply
from replay_service.client.membership import CALL_SECONDS, Membership
from replay_service.table.types import ReplayTimeout, ScanCursor, ScannedBatch
from replay_service.wire import codec, replay_pb2
from replay_service.wire.channel_options import MAX_BULK_BYTES
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UpcycleError, UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View

_PAUSE_SECONDS: Final = 0.1


class ScanIncomplete(UpcycleError):
    """A pass has given all that it could, but a shard was lost or restarted meanwhile; scan again for the rest."""


@dataclass(slots=True)
class _ShardPass:
    """One shard's part of a pass."""

    index: int
    cursor: ScanCursor = field(default_factory=ScanCursor)
    incarnation: int | None = None
    away_since: float | None = None


class TableScan:
    """One pass over a table. A shard that is away gets its turn after the others, and again for a time.

    Args:
      packed: frames may come in LZ4 blocks.
      timeout_seconds: how long a shard may be away before the pass goes without it.
    """

    def __init__(
        self,
        members: Membership,
        spec: ChunkSpec,
        table: str,
        batch_size: int,
        *,
        view: View,
        only_missing: bool,
        packed: bool,
        timeout_seconds: float,
    ) -> None:
        self._members, self._spec, self._table, self._batch_size = members, spec, table, batch_size
        self._view, self._only_missing, self._packed = view, only_missing, packed
        self._timeout_seconds = timeout_seconds
        self._width: int | None = None  # of the annotations, as the first reply has them

    def batches(self) -> Iterator[ScannedBatch]:
        """See `ShardedReplay.scan`."""
        passes = deque(_ShardPass(index) for index in self._members.announced())
        if not passes:
            raise ReplayTimeout(self._members.why_none(self._table))
        missed, filling = dict[int, str](), self._new_filling()
        while passes:
            one = passes[0]
            reply = self._ask(one, filling.num_missing)
            if reply is None:
                passes.rotate(-1)
                if time.monotonic() - (one.away_since or 0.0) > self._timeout_seconds:
                    missed[one.index] = "did not answer"
                    passes.remove(one)
                elif all(other.away_since is not None for other in passes):
                    self._members.wait(_PAUSE_SECONDS)
                continue
            if one.incarnation not in (None, reply.sample.state.incarnation):
                # The same chunks, perhaps, under other generations: to go on here would show some of them twice.
                missed[one.index] = "was restarted"
                passes.popleft()
                continue
            filling = self._add(filling, one, reply)
            if filling.num_missing == 0:
                yield filling.scanned()
                filling = self._new_filling()
            if reply.ended:
                passes.popleft()
        if filling.num_rows:
            yield filling.scanned()
        if missed:
            shards = ", ".join(f"shard {index} {why}" for index, why in sorted(missed.items()))
            raise ScanIncomplete(f"table {self._table!r}: {shards}; scan again for what this pass has missed")

    def _ask(self, one: _ShardPass, limit: int) -> replay_pb2.ScanReply | None:
        """The next transitions of a shard, at most so many; None if it is away."""
        row_bytes = codec.sample_row_bytes(self._spec, self._view, self._width or 0)
        request = replay_pb2.ScanRequest(
            table=self._table,
            view=codec.view_to_message(self._view),
            batch_size=min(limit, max(MAX_BULK_BYTES // row_bytes, 1)),
            cursor=codec.cursor_to_message(one.cursor),
            only_missing=self._only_missing,
            packed=self._packed,
        )
        client, reply = self._members.live().get(one.index), None
        if client is not None:
            try:
                reply = client.scan(request, timeout_seconds=CALL_SECONDS)
            except (ShardUnavailable, ShardSlow):
                self._members.lost(one.index, client)
        if reply is not None:
            one.away_since = None
        elif one.away_since is None:
            one.away_since = time.monotonic()
        return reply

    def _add(self, filling: BatchFilling, one: _ShardPass, reply: replay_pb2.ScanReply) -> BatchFilling:
        """Puts a reply into a batch that has room for it, and moves the shard's cursor on."""
        width = reply.sample.state.annotation_width
        if self._width is None:
            self._width, filling = width, self._new_filling(width)
        elif width != self._width:
            raise UserError(
                "annotation_width",
                width,
                f"of the table {self._table!r} is {self._width} at another shard",
                "start all shards with the same configuration",
            )
        columns, packed = codec.sample_from_message(reply.sample, self._spec, self._view, max_rows=filling.num_missing)
        one.cursor, one.incarnation = codec.cursor_from_message(reply.cursor), reply.sample.state.incarnation
        if len(columns["slot"]):
            filling.add(one.index, WindowReply(columns, packed), np.arange(len(columns["slot"])))
        return filling

    def _new_filling(self, width: int = 0) -> BatchFilling:
        return BatchFilling(self._batch_size, self._spec, self._view, np.empty, annotation_width=self._width or width)
