"""Several shards behind one client: any shard takes any chunk, and a batch is drawn as if from one table."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from replay_service.admission import SampleAdmission, why_not
from replay_service.batch_filling import Allocate
from replay_service.drawing import BatchDrawer
from replay_service.failures import ShardSlow, ShardUnavailable
from replay_service.inserting import ChunkInserter
from replay_service.inspection import TableInspection
from replay_service.membership import CALL_SECONDS, Membership, seconds_left
from replay_service.seeding import seed_shards
from replay_service.types import ReplayTimeout, SampledBatch, TableStats, TransitionKeys, Transport, total_stats
from upcycle.chunks import Array, ChunkSpec
from upcycle.errors import UpcycleError
from upcycle.metrics import Metrics
from upcycle.windows import View

__all__ = ["ReplayTimeout", "SampledBatch", "ShardedReplay", "TableStats", "TransitionKeys"]

_WAIT_SECONDS: Final = 0.2  # the longest a shard is asked to hold a call back; then the others get their turn


class ShardedReplay:
    """The replay service as actors and learners see it. Thread-safe; close it.

    A shard that cannot be reached is left out of sampling and inserting, and comes back when it answers again, wherever
    it then listens. A call may overrun its timeout by the five seconds that an unresponsive shard takes to be noticed.

    Args:
      endpoints: shard index to address, read anew while the object lives: shards restart on new ports.
      spec: what chunks look like; every shard must agree.
      metrics: where waits and drops on this side are counted.
      transport: how windows may reach this client.
      packed: their frames may come in LZ4 blocks, from tables that hold them so.
    """

    def __init__(
        self,
        endpoints: Callable[[], Mapping[int, str]],
        spec: ChunkSpec,
        *,
        rng: np.random.Generator,
        metrics: Metrics | None = None,
        transport: Transport = "auto",
        packed: bool = True,
    ) -> None:
        self._endpoints, self._spec, self._metrics = endpoints, spec, metrics
        self._lock = threading.Lock()  # guards the one below
        self._num_dropped: dict[str, int] = {}  # priority updates by table
        self._members = Membership(endpoints, spec)
        self._admission = SampleAdmission(self._members, metrics)
        self._inserter = ChunkInserter(self._members, chunk_steps=spec.steps, first_turn=int(rng.integers(1 << 16)))
        self._drawer = BatchDrawer(self._members, spec, rng=rng, transport=transport, packed=packed, metrics=metrics)

    def insert(
        self,
        table: str,
        chunks: Sequence[bytes],
        *,
        writer_id: str,
        first_sequence: int,
        timeout_seconds: float,
    ) -> None:
        """Stores encoded chunks, numbered from `first_sequence` on; on return each of them is acknowledged.

        A repeated number is acknowledged without being stored again. That holds per shard: a chunk may be stored twice
        only if its shard died between storing and acknowledging it.

        Raises:
          ReplayTimeout: the limiter or missing shards kept some chunk out; call again with the same arguments.
          CorruptDataError: a chunk failed verification; repeating is pointless.
          UserError: no such table, a chunk too large for a message, or the disk of a shard is full.
        """
        self._inserter.insert(
            table, chunks, writer_id=writer_id, first_sequence=first_sequence, timeout_seconds=timeout_seconds
        )

    def sample(
        self, table: str, batch_size: int, *, view: View, importance_sampling_exponent: float, timeout_seconds: float
    ) -> SampledBatch:
        """One batch of `sample_batches`."""
        (batch,) = self.sample_batches(
            table,
            batch_size,
            1,
            view=view,
            importance_sampling_exponent=importance_sampling_exponent,
            timeout_seconds=timeout_seconds,
        )
        return batch

    def sample_batches(
        self,
        table: str,
        batch_size: int,
        num_batches: int,
        *,
        view: View,
        importance_sampling_exponent: float,
        timeout_seconds: float,
        allocate: Allocate = np.empty,
    ) -> list[SampledBatch]:
        """Draws transitions from all shards with the probabilities that one table of all their chunks would have.

        Batches drawn together share the cost of asking the shards; each is as if it had been drawn by itself.

        Args:
          allocate: gives the memory for the frames of each batch.
        Raises:
          ReplayTimeout: the limiter holds sampling back, too little is stored, or no shard answers; call again.
          ValueError: chunks of this run cannot be seen that way.
          UserError: no such table, or a limiter that could never let such a batch pass.
        """
        view.check(self._spec)
        deadline, wanted = time.monotonic() + timeout_seconds, batch_size * num_batches
        held = self._admission.take_kept(table, wanted)
        try:
            while True:
                shards = self._members.tables(table, n_step=view.n_step)
                held += self._admission.ask(table, wanted - held, shards)
                if held == wanted:
                    batches = self._drawer.draw(
                        table,
                        batch_size,
                        num_batches,
                        shards=shards,
                        view=view,
                        importance_sampling_exponent=importance_sampling_exponent,
                        allocate=allocate,
                    )
                    if batches is not None:
                        held = 0
                        return batches
                if time.monotonic() >= deadline:
                    raise ReplayTimeout(why_not(table, shards))
                wait_seconds = min(_WAIT_SECONDS, seconds_left(deadline))
                held += self._admission.wait(table, wanted - held, shards, wait_seconds)
        finally:
            self._admission.keep(table, held)

    def update_priorities(self, table: str, keys: TransitionKeys, priorities: Array) -> None:
        """Gives transitions new priorities, float [B]; best effort.

        What has been overwritten meanwhile, or lay in a shard that is lost, is dropped and counted.
        Raises: ValueError if a priority is not finite and above 0.
        """
        priorities = np.asarray(priorities, np.float64)
        if not bool(((priorities > 0) & np.isfinite(priorities)).all()):
            raise ValueError("priorities must be finite and above 0")
        live, num_dropped = self._members.live(), 0
        for index in np.unique(keys.shard).tolist():
            mine = keys.shard == index
            columns = {
                "slot": keys.slot[mine],
                "offset": keys.offset[mine],
                "generation": keys.generation[mine],
                "priority": priorities[mine],
            }
            client = live.get(index)
            if client is None:
                num_dropped += int(np.count_nonzero(mine))
                continue
            try:
                _, stats = client.update_priorities(
                    table, columns, max_priority=self._members.max_priority(table), timeout_seconds=CALL_SECONDS
                )
            except (ShardUnavailable, ShardSlow):
                self._members.lost(index, client)
                num_dropped += int(np.count_nonzero(mine))
                continue
            self._members.observe(index, client, table, stats)
        with self._lock:
            self._num_dropped[table] = self._num_dropped.get(table, 0) + num_dropped
        if self._metrics is not None and num_dropped:
            self._metrics.increment("replay_dropped_updates_total", num_dropped)

    def stats(self, table: str) -> TableStats:
        """Fresh counters of a table, added up and by shard. Raises ReplayTimeout if no shard answers."""
        fresh = dict[int, TableStats]()
        for index, client in self._members.live().items():
            stats = self._members.refresh(index, client, table)
            if stats is not None:
                fresh[index] = stats
        if not fresh:
            raise ReplayTimeout(why_not(table, {}))
        with self._lock:
            return replace(total_stats(fresh), num_dropped_updates=self._num_dropped.get(table, 0))

    def inspect(self, table: str, num_windows: int, *, view: View) -> dict[int, TableInspection | UpcycleError]:
        """What each announced shard holds in a table, or why it does not say; changes nothing at the shards.

        Raises: ValueError or UserError for a request that makes no sense to them.
        """
        answers = dict[int, TableInspection | UpcycleError]()
        for index, client in self._members.announced().items():
            try:
                answers[index] = client.inspect(table, num_windows, view=view, timeout_seconds=CALL_SECONDS)
            except (ShardUnavailable, ShardSlow) as error:
                answers[index] = error
        return answers

    def seed(
        self,
        table: str,
        log_directory: Path,
        newest_transitions: int | None = None,
        *,
        timeout_seconds: float = 600.0,
    ) -> int:
        """Fills a table from an experience log that every shard can read, each shard taking its part.

        Safe to repeat: a shard that has seeded its part already does nothing.
        Returns: transitions stored.
        Raises: UserError or CorruptDataError about the log; ReplayTimeout if a shard did not answer.
        """
        return seed_shards(
            self._members,
            sorted(self._endpoints()),
            table,
            log_directory.absolute(),
            newest_transitions,
            timeout_seconds=timeout_seconds,
        )

    def close(self) -> None:
        """Closes all connections. Safe to call twice."""
        self._members.close()
