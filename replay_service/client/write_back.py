"""What a learner found out about stored transitions, on its way back to their shards: priorities and annotations."""

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from replay_service.client.membership import CALL_SECONDS, Membership
from replay_service.client.shard_client import ShardClient
from replay_service.table.table_stats import TableStats
from replay_service.table.types import TransitionKeys
from replay_service.wire.channel_options import MAX_BULK_BYTES
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.runs.metrics import Metrics

_KEY_BYTES = 3 * 8

_Send = Callable[[ShardClient, dict[str, Array], Array], TableStats]
"""Sends the keys of one shard, and their rows of what there is to write; returns the shard's counters."""


class StateWriter:
    """Sends each key to the shard and the table that it is of. Thread-safe.

    What was overwritten meanwhile is dropped by the shard, and what lay in a shard that is away is dropped here. Both
    are counted.
    """

    def __init__(self, members: Membership, metrics: Metrics | None) -> None:
        self._members, self._metrics = members, metrics
        self._lock = threading.Lock()  # guards the one below
        self._num_dropped: dict[str, int] = {}  # priority updates by table

    def num_dropped_updates(self, table: str) -> int:
        """Priority updates of a table that were dropped here."""
        with self._lock:
            return self._num_dropped.get(table, 0)

    def update_priorities(self, table: str | None, keys: TransitionKeys, priorities: Array) -> None:
        """See `ShardedReplay.update_priorities`."""
        priorities = np.asarray(priorities, np.float64)
        if not bool(((priorities > 0) & np.isfinite(priorities)).all()):
            raise ValueError("priorities must be finite and above 0")
        for name, rows in keys.by_table(table):
            num_dropped = self._send(name, keys, rows, partial(self._send_priorities, name, priorities))
            with self._lock:
                self._num_dropped[name] = self._num_dropped.get(name, 0) + num_dropped
            self._count("replay_dropped_updates_total", num_dropped)

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        """See `ShardedReplay.annotate`."""
        values = np.ascontiguousarray(values, np.float32)
        if values.ndim != 2 or len(values) != len(keys.slot) or not bool(np.isfinite(values).all()):
            raise ValueError(f"annotations {values.shape}: must be finite, a row for each of {len(keys.slot)} keys")
        by_table = keys.by_table(table)
        for name, _ in by_table:
            self._check_width(name, values.shape[1])
        num_lost, row_bytes = 0, _KEY_BYTES + values.itemsize * values.shape[1]
        for name, rows in by_table:
            num_stale = list[int]()
            send = partial(self._send_annotations, name, values, num_stale)
            num_dropped = self._send(name, keys, rows, send, row_bytes=row_bytes)
            self._count("replay_dropped_annotations_total", num_dropped)
            num_lost += num_dropped + sum(num_stale)
        return len(values) - num_lost

    def _send_priorities(
        self, table: str, priorities: Array, client: ShardClient, columns: dict[str, Array], rows: Array
    ) -> TableStats:
        columns["priority"] = priorities[rows]
        max_priority = self._members.max_priority(table)
        return client.update_priorities(table, columns, max_priority=max_priority, timeout_seconds=CALL_SECONDS)[1]

    def _send_annotations(
        self,
        table: str,
        values: Array,
        num_stale: list[int],
        client: ShardClient,
        columns: dict[str, Array],
        rows: Array,
    ) -> TableStats:
        """Appends how many keys were stale."""
        columns["annotation"] = values[rows]
        stale, stats = client.annotate(table, columns, timeout_seconds=CALL_SECONDS)
        num_stale.append(stale)
        return stats

    def _check_width(self, table: str, width: int) -> None:
        for _, stats in self._members.tables(table).values():
            if stats.annotation_width != width:
                raise UserError(
                    "annotation_width",
                    stats.annotation_width,
                    f"is what the table {table!r} keeps of a state, and annotations of {width} floats were given",
                    "write as many floats as the table was started with",
                )

    def _send(
        self,
        table: str,
        keys: TransitionKeys,
        rows: Array,
        send: _Send,
        *,
        row_bytes: int = _KEY_BYTES + 8,
    ) -> int:
        """Sends the keys of one table, those of each shard together; returns how many were dropped."""
        live, num_dropped, max_rows = self._members.live(), 0, max(MAX_BULK_BYTES // row_bytes, 1)
        for index in np.unique(keys.shard[rows]).tolist():
            of_shard = rows[keys.shard[rows] == index]
            for begin in range(0, len(of_shard), max_rows):
                mine, client = of_shard[begin : begin + max_rows], live.get(index)
                columns = {
                    "slot": keys.slot[mine],
                    "offset": keys.offset[mine],
                    "generation": keys.generation[mine],
                }
                try:
                    if client is None:
                        num_dropped += len(mine)
                        continue
                    stats = send(client, columns, mine)
                except (ShardUnavailable, ShardSlow):
                    self._members.lost(index, live.pop(index))
                    num_dropped += len(mine)
                    continue
                self._members.observe(index, client, table, stats)
        return num_dropped

    def _count(self, metric: str, amount: int) -> None:
        if self._metrics is not None and amount:
            self._metrics.increment(metric, amount)
