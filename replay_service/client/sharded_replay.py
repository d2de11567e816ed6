"""Several shards behind one client: any shard takes any chunk, and a batch is drawn as if from one table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from replay_service.client.batch_drawer import BatchDrawer
from replay_service.client.broadcast import ask_stats, inspect_shards
from replay_service.client.inserter import ChunkInserter
from replay_service.client.membership import Membership
from replay_service.client.mixture_sampler import MixtureSampler
from replay_service.client.sample_admission import SampleAdmission
from replay_service.client.seeding import seed_shards
from replay_service.client.table_scan import TableScan
from replay_service.client.write_back import StateWriter
from replay_service.table.table_stats import TableStats
from replay_service.table.types import SampledBatch, SampleRequest, ScannedBatch, TransitionKeys, Transport
from replay_service.wire.inspection_messages import TableInspection
from upcycle.errors import UpcycleError
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics


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
        self._endpoints, self._spec, self._packed = endpoints, spec, packed
        self._members = Membership(endpoints, spec)
        first_turn = int(rng.integers(1 << 16))
        self._admission = SampleAdmission(self._members, metrics, chunk_steps=spec.steps, first_turn=first_turn)
        self._inserter = ChunkInserter(self._members, chunk_steps=spec.steps, first_turn=first_turn)
        self._drawer = BatchDrawer(self._members, spec, rng=rng, transport=transport, packed=packed, metrics=metrics)
        self._mixture = MixtureSampler(self._admission, self._drawer, spec, rng=rng.spawn(1)[0])
        self._writer = StateWriter(self._members, metrics)

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

    def sample(self, request: SampleRequest) -> list[SampledBatch]:
        """Draws batches from all shards with the probabilities that one table of all their chunks would have.

        Of a mixture, batch_size x share rows of each batch are of that table, drawn by its own sampler and admitted by
        its own limiter; where that is not whole it is rounded down or up, so that its expectation is exact. Rows stand
        in the order of `request.tables`, those of one table in no order; `keys.table` and `keys.tables` say which table
        each row is of. What limiters have admitted when the call times out is kept for the next one.

        Raises:
          ReplayTimeout: the limiter holds sampling back, too little is stored, or no shard answers; call again.
          ValueError: chunks of this run cannot be seen that way.
          UserError: no such table, a limiter that could never let such a batch pass, shares that do not sum to 1, or
            annotations whose width differs between the tables of a mixture.
        """
        request.view.check(self._spec)
        if request.draw_seed is not None:
            self._members.await_return()
        if not isinstance(request.tables, str):
            return self._mixture.sample(request, request.tables)
        table = request.tables
        return self._admission.draw_when_admitted(
            {table: request.batch_size * request.num_batches},
            lambda shards: self._drawer.draw(table, request, shards[table]),
            n_step=request.view.n_step,
            timeout_seconds=request.timeout_seconds,
        )

    def scan(
        self,
        table: str,
        batch_size: int,
        *,
        view: View,
        only_missing: bool = False,
        timeout_seconds: float = 60.0,
    ) -> Iterator[ScannedBatch]:
        """One pass over the transitions that can be drawn with this view, shard by shard, from the oldest on.

        No transition comes twice, whatever is inserted or overwritten meanwhile, and each comes once that is stored
        when the pass comes to its shard and not overwritten before its turn. No limiter is asked, and nothing counts as
        sampled. Every batch but the last is full. The pass costs the shards nothing while nobody asks for its next
        batch.

        Args:
          only_missing: leaves out states that are annotated, so that an interrupted annotation can be resumed.
          timeout_seconds: how long a shard may be away before the pass goes without it.
        Raises: ValueError for an impossible view or size. The iterator raises ReplayTimeout if no shard is announced,
          UserError if there is no such table or, with `only_missing`, it keeps no annotations, and ScanIncomplete after
          the last batch if a shard was away or has been restarted meanwhile: it may hold transitions that did not come.
        """
        view.check(self._spec)
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be above 0")
        return TableScan(
            self._members,
            self._spec,
            table,
            batch_size,
            view=view,
            only_missing=only_missing,
            packed=self._packed,
            timeout_seconds=timeout_seconds,
        ).batches()

    def update_priorities(self, table: str | None, keys: TransitionKeys, priorities: Array) -> None:
        """Gives transitions new priorities, float [B]; best effort.

        What has been overwritten meanwhile, or lay in a shard that is lost, is dropped and counted.
        Args:
          table: that the keys are of; None for keys of a mixture, which name their tables.
        Raises: ValueError if a priority is not finite and above 0, or the table is named twice or not at all.
        """
        self._writer.update_priorities(table, keys, priorities)

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        """Writes values beside stored states, float32 [B, annotation_width], and returns how many were written.

        The others were overwritten meanwhile, or lay in a shard that is lost; they are counted. Annotations stay until
        their chunk is overwritten, and go with the shard; the experience log does not hold them. Repeating is safe with
        the same values; to give a state other values is against the contract, since readers of the shared memory may
        then see some of each.

        Args:
          table: as in `update_priorities`.
        Raises: UserError if the table keeps none or annotations of another width; ValueError if a value is not finite.
        """
        return self._writer.annotate(table, keys, values)

    def stats(self, table: str) -> TableStats:
        """Fresh counters of a table, added up and by shard. Raises ReplayTimeout if no shard answers."""
        return replace(ask_stats(self._members, table), num_dropped_updates=self._writer.num_dropped_updates(table))

    def inspect(self, table: str, num_windows: int, *, view: View) -> dict[int, TableInspection | UpcycleError]:
        """What each announced shard holds in a table, or why it does not say; changes nothing at the shards.

        Raises: ValueError or UserError for a request that makes no sense to them.
        """
        return inspect_shards(self._members, table, num_windows, view=view)

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
