"""The calls to one replay shard: deadlines, typed errors, and retries of what is safe to repeat."""

from __future__ import annotations  # gRPC's generic types exist for type checkers alone

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from replay_service.client.mapped_arena import MappedArena
from replay_service.storage.packed_windows import PackedWindows
from replay_service.storage.shared_memory import SegmentHandle, SegmentUnreachable, can_share
from replay_service.table.table_stats import TableStats
from replay_service.table.types import Transport
from replay_service.wire import codec, inspection_messages, replay_pb2, replay_pb2_grpc
from replay_service.wire.channel_options import CHANNEL_OPTIONS, COMMON_OPTIONS
from replay_service.wire.errors import ShardUnavailable, repeat_call, translated
from replay_service.wire.stubs import HealthStub, Stub, open_local
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View

_log = structlog.get_logger(__name__)


class ShardClient:
    """One shard at one address. Thread-safe.

    Every method raises ShardUnavailable, ShardSlow, CorruptDataError (bytes refused by either side), UserError or
    ValueError (a request that makes no sense to the shard); only the first two are worth another attempt.
    """

    def __init__(self, address: str, spec: ChunkSpec) -> None:
        self.address = address
        self._spec = spec
        self._local: tuple[grpc.Channel, Stub] | None = None
        self._mapping = threading.Lock()  # guards _arenas, and the making of _local
        self._arenas = dict[str, tuple[int, MappedArena | None]]()  # by table, with the incarnation it is of
        self._channel = grpc.insecure_channel(address, options=[*COMMON_OPTIONS, *CHANNEL_OPTIONS])
        self._stub = cast(Stub, replay_pb2_grpc.ReplayStub(self._channel))
        self._health = cast(HealthStub, health_pb2_grpc.HealthStub(self._channel))

    def insert(
        self,
        table: str,
        chunks: Sequence[bytes],
        *,
        writer_id: str,
        first_sequence: int,
        max_priority: float,
        timeout_seconds: float,
    ) -> tuple[int, TableStats]:
        """Returns how many of the first chunks the shard has now, and its counters."""
        request = replay_pb2.InsertRequest(
            table=table,
            writer_id=writer_id,
            first_sequence=first_sequence,
            chunks=chunks,
            max_priority=max_priority,
        )
        reply = repeat_call(self._stub.Insert, request, timeout_seconds, address=self.address)
        return reply.num_accepted, codec.stats_from_message(reply.state)

    def reserve(
        self,
        table: str,
        num_chunks: int,
        *,
        writer_id: str,
        wait_seconds: float,
        waited_seconds: float,
        timeout_seconds: float,
    ) -> tuple[int, TableStats]:
        """Asks for room for chunks; returns for how many it is kept until the writer's next insert, and counters."""
        request = replay_pb2.ReserveRequest(table=table, writer_id=writer_id, num_chunks=num_chunks)
        request.wait_seconds, request.waited_seconds = wait_seconds, waited_seconds
        reply = repeat_call(self._stub.Reserve, request, timeout_seconds, address=self.address)
        return reply.num_chunks, codec.stats_from_message(reply.state)

    def admit(
        self, table: str, num_samples: int, *, wait_seconds: float, timeout_seconds: float
    ) -> tuple[int, TableStats]:
        """Asks the limiter for samples; returns how many it admits, which count as sampled, and counters."""
        request = replay_pb2.AdmitRequest(table=table, num_samples=num_samples, wait_seconds=wait_seconds)
        reply = repeat_call(self._stub.Admit, request, timeout_seconds, pauses=(), address=self.address)
        return reply.num_admitted, codec.stats_from_message(reply.state)

    def begin_sample(
        self, request: replay_pb2.SampleRequest, *, timeout_seconds: float
    ) -> Callable[[], tuple[dict[str, Array], PackedWindows | None, TableStats]]:
        """Sends a request and returns what waits for its reply: the columns of `wire.sample_layout`, and counters.

        If it asks for packed frames they may come apart from the columns, in blocks. It is not repeated: another shard
        can give the samples as well.
        """
        view = codec.view_from_message(request.view, self._spec)
        receive = self._begin(request, timeout_seconds)

        def finish() -> tuple[dict[str, Array], PackedWindows | None, TableStats]:
            reply, stats = receive()
            columns, frames = codec.sample_from_message(reply, self._spec, view, max_rows=request.batch_size)
            return columns, frames, stats

        return finish

    def begin_draw(
        self, request: replay_pb2.SampleRequest, *, arena: MappedArena, timeout_seconds: float
    ) -> Callable[[], tuple[dict[str, Array], TableStats]]:
        """Like `begin_sample`, for a request of keys only: the windows are read from `arena`."""
        receive = self._begin(request, timeout_seconds)

        def finish() -> tuple[dict[str, Array], TableStats]:
            reply, stats = receive()
            columns = codec.decode_columns(reply.columns, codec.DRAW_LAYOUT, max_rows=request.batch_size)
            if not arena.contains(columns["slot"], columns["offset"]):
                raise CorruptDataError(f"replay shard at {self.address}: it names transitions outside its table")
            return columns, stats

        return finish

    def arena(
        self, table: str, incarnation: int, *, transport: Transport, timeout_seconds: float
    ) -> MappedArena | None:
        """The table's arena, mapped here; None if `transport` forbids it or the shard keeps it out of reach.

        It is mapped once for each incarnation of the table. Samples of a shard whose arena is not mapped come through
        its Unix socket from then on, if there is one on this host.
        """
        if transport == "tcp":
            return None
        with self._mapping:
            known = self._arenas.get(table)
            if known is None or known[0] != incarnation:
                known = (incarnation, self._attach(table, incarnation, transport, timeout_seconds))
                self._arenas[table] = known
            return known[1]

    def _attach(self, table: str, incarnation: int, transport: Transport, timeout_seconds: float) -> MappedArena | None:
        """Held: _mapping."""
        reply = repeat_call(
            self._stub.Attach, replay_pb2.AttachRequest(table=table), timeout_seconds, address=self.address
        )
        arena = None
        if transport == "auto" and can_share() and reply.num_bytes and reply.incarnation == incarnation:
            arena = self._map(table, reply)
        if arena is None and reply.local_address and self._local is None:
            self._local = open_local(reply.local_address)
            _log.info("unix_socket", address=self.address, used=self._local is not None)
        return arena

    def _map(self, table: str, reply: replay_pb2.AttachReply) -> MappedArena | None:
        handle = SegmentHandle(reply.pid, reply.descriptor, reply.token, reply.num_bytes)
        try:
            return MappedArena.map(
                handle,
                self._spec,
                num_slots=reply.num_slots,
                incarnation=reply.incarnation,
                annotation_width=reply.annotation_width,
            )
        except SegmentUnreachable as error:
            _log.info("arena_not_mapped", address=self.address, table=table, reason=str(error))
            return None

    def _begin(
        self, request: replay_pb2.SampleRequest, timeout_seconds: float
    ) -> Callable[[], tuple[replay_pb2.SampleReply, TableStats]]:
        try:
            stub = self._stub if self._local is None else self._local[1]
            future = stub.Sample.future(request, timeout=timeout_seconds)
        except ValueError as error:  # gRPC's way to say that this channel has been closed
            closed = ShardUnavailable(f"replay shard at {self.address}: {error}")

            def fail() -> NoReturn:
                raise closed

            return fail

        def finish() -> tuple[replay_pb2.SampleReply, TableStats]:
            try:
                reply = future.result()
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                raise translated(error, self.address) from error
            return reply, codec.stats_from_message(reply.state)

        return finish

    def update_priorities(
        self, table: str, columns: dict[str, Array], *, max_priority: float, timeout_seconds: float
    ) -> tuple[int, TableStats]:
        """Sends the columns of `wire.UPDATE_LAYOUT`; returns how many keys were stale, and counters."""
        request = replay_pb2.UpdatePrioritiesRequest(
            table=table, columns=codec.encode_columns(columns), max_priority=max_priority
        )
        reply = repeat_call(self._stub.UpdatePriorities, request, timeout_seconds, address=self.address)
        return reply.num_stale, codec.stats_from_message(reply.state)

    def annotate(self, table: str, columns: dict[str, Array], *, timeout_seconds: float) -> tuple[int, TableStats]:
        """Sends the columns of `wire.annotation_layout`; returns how many keys were stale, and counters."""
        request = replay_pb2.AnnotateRequest(table=table, columns=codec.encode_columns(columns))
        reply = repeat_call(self._stub.Annotate, request, timeout_seconds, address=self.address)
        return reply.num_stale, codec.stats_from_message(reply.state)

    def scan(self, request: replay_pb2.ScanRequest, *, timeout_seconds: float) -> replay_pb2.ScanReply:
        """The next transitions of a pass; `replay_service.client.table_scan` makes the request and reads the reply."""
        stub = self._stub if self._local is None else self._local[1]
        return repeat_call(stub.Scan, request, timeout_seconds, address=self.address)

    def stats(
        self,
        table: str,
        *,
        n_step: int = 0,
        known_revision: int = 0,
        wait_seconds: float = 0.0,
        timeout_seconds: float,
    ) -> TableStats:
        """Counters, at once or as soon as chunks have come in since `known_revision`."""
        request = replay_pb2.StatsRequest(
            table=table, n_step=n_step, known_revision=known_revision, wait_seconds=wait_seconds
        )
        return codec.stats_from_message(
            repeat_call(self._stub.Stats, request, timeout_seconds, address=self.address).state
        )

    def seed(
        self,
        table: str,
        log_directory: Path,
        *,
        shard_index: int,
        num_shards: int,
        newest_transitions: int | None,
        timeout_seconds: float,
    ) -> int:
        """Lets the shard fill a table from a log; returns transitions stored."""
        request = replay_pb2.SeedRequest(
            table=table,
            log_directory=str(log_directory),
            shard_index=shard_index,
            num_shards=num_shards,
            newest_transitions=newest_transitions or 0,
        )
        return repeat_call(self._stub.Seed, request, timeout_seconds, address=self.address).num_transitions

    def drain(self, *, cancel: bool = False, timeout_seconds: float) -> dict[str, TableStats]:
        """Lets the shard take no more chunks, or take them again; returns the counters of all its tables."""
        reply = repeat_call(
            self._stub.Drain, replay_pb2.DrainRequest(cancel=cancel), timeout_seconds, address=self.address
        )
        return {table: codec.stats_from_message(state) for table, state in reply.states.items()}

    def inspect(
        self, table: str, num_windows: int, *, view: View, timeout_seconds: float
    ) -> inspection_messages.TableInspection:
        """What a table holds; changes nothing there."""
        request = replay_pb2.InspectRequest(table=table, view=codec.view_to_message(view), num_windows=num_windows)
        return inspection_messages.from_message(
            repeat_call(self._stub.Inspect, request, timeout_seconds, address=self.address), self._spec, view
        )

    def check_health(self, *, timeout_seconds: float) -> None:
        """Returns if the shard serves."""
        request = health_pb2.HealthCheckRequest(service="")
        reply = repeat_call(self._health.Check, request, timeout_seconds, address=self.address)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise ShardUnavailable(f"replay shard at {self.address} is stopping")

    def close(self) -> None:
        """Closes the connection; calls under way end with ShardUnavailable."""
        self._channel.close()
        if self._local is not None:
            self._local[0].close()
