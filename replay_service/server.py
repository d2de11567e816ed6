"""A replay shard: the gRPC server around its tables."""

import secrets
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from replay_service import inspection, replay_pb2, replay_pb2_grpc, wire
from replay_service.calls import InThreads, bounded_wait, typed_refusals
from replay_service.options import COMMON_OPTIONS, MAX_MESSAGE_BYTES, SERVER_OPTIONS
from replay_service.served_table import LOGGED_TABLE, ServedTable
from replay_service.shared_log import LogPart, SharedLog
from replay_service.shared_memory import SharedSegment, can_share
from replay_service.size_gauge import SizeGauge
from replay_service.storage import Arena
from replay_service.table import Table, num_slots_of
from replay_service.types import TableConfig
from upcycle.chunks import ChunkSpec
from upcycle.errors import UserError
from upcycle.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.metrics import Metrics

_log = structlog.get_logger(__name__)

_NUM_INSERTS: Final = 2
"""Inserts worked on at a time, by threads of their own: one is checked while another is stored. More of them would only
hold more messages; those of the others wait in their connections, unread, in order of arrival."""

_MAX_WRITERS: Final = 128  # waiting for room
_MAX_READERS: Final = 32  # waiting for samples or for chunks
_NUM_THREADS: Final = _MAX_WRITERS + _MAX_READERS + 16  # so that 16 are left for calls that are answered at once
_MAX_CALLS: Final = 2048  # any more are refused at once; clients come back later
_MAX_UPDATES: Final = 1 << 20


class ReplayShard:
    """One shard of the replay service, served over gRPC.

    What an insert into the table `online` has acknowledged is in `log` and survives the death of this process. The
    account of the limiter and the generations of slots begin anew with each shard object.

    Args:
      log: of this shard alone. The shard syncs it when it stops; whoever opened it closes it, after that.
      rng: draws are a function of it and of the calls; None takes another one each time.
      host, port: where to listen; port 0 takes a free one.
      shared_memory: keep tables where clients on this host can read them, if this system has such memory.
    Raises: UserError for a table configuration that cannot work.
    """

    def __init__(
        self,
        *,
        index: int,
        spec: ChunkSpec,
        tables: Sequence[TableConfig],
        log: ExperienceLogWriter | None,
        metrics: Metrics,
        rng: np.random.Generator | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        shared_memory: bool = True,
    ) -> None:
        self.index, self.spec = index, spec
        self._host, self._port = host, port
        self._log = SharedLog(log) if log is not None else None
        size = SizeGauge(metrics)
        generators = (rng or np.random.default_rng()).spawn(len(tables))
        self._tables = dict[str, ServedTable]()
        for config, generator in zip(tables, generators, strict=True):
            segment = _segment(config, spec) if shared_memory and config.tier == "raw" else None
            self._tables[config.name] = ServedTable(
                Table(
                    config,
                    spec,
                    rng=generator,
                    # A restarted shard must not take keys of the one before for its own: random ranges.
                    first_generation=1 + (secrets.randbits(30) << 32),
                    buffer=None if segment is None else segment.buffer,
                ),
                log=self._log if config.name == LOGGED_TABLE else None,
                metrics=metrics,
                size=size,
                max_writers=max(_MAX_WRITERS // len(tables), 1),
                max_readers=max(_MAX_READERS // len(tables), 1),
                segment=segment,
            )
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix=f"replay-{index}")
        self._insert_threads = ThreadPoolExecutor(_NUM_INSERTS, thread_name_prefix=f"replay-{index}-insert")
        options = [*COMMON_OPTIONS, *SERVER_OPTIONS]
        self._server = grpc.server(self._threads, options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        self._health = health.HealthServicer()
        self._stopped = threading.Event()
        local_address = self._listen_locally()
        servicer = _Servicer(spec, self._tables, local_address)
        servicer.Insert = InThreads(servicer.Insert, self._insert_threads)
        replay_pb2_grpc.add_ReplayServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def start(self) -> str:
        """Begins to serve and returns the address, `host:port`. Raises UserError if the port is taken."""
        wanted = f"{self._host}:{self._port}"
        try:
            port = self._server.add_insecure_port(wanted)
        except RuntimeError as error:
            raise UserError(
                "replay shard's address", wanted, "cannot be listened on (port taken?)", "choose another, or port 0"
            ) from error
        self._server.start()
        self._health.set(health.OVERALL_HEALTH, health_pb2.HealthCheckResponse.SERVING)
        return f"{self._host}:{port}"

    def _listen_locally(self) -> str:
        """Listens on a Unix socket of a random name that is no file; returns its address, "" where there are none."""
        if sys.platform != "linux":
            return ""
        address = f"unix-abstract:upcycle-replay-{secrets.token_hex(16)}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:  # a sandbox without Unix sockets: TCP serves all
            _log.warning("no_unix_socket", reason=str(error))
            return ""
        return address

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Refuses new calls, ends waits, lets calls under way finish, then syncs the log. Safe to call twice."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._health.enter_graceful_shutdown()
        for table in self._tables.values():
            table.stop()
        self._server.stop(grace_seconds).wait(grace_seconds + 1.0)
        self._insert_threads.shutdown(wait=True)
        self._threads.shutdown(wait=True)
        for table in self._tables.values():
            if table.segment is not None:
                table.segment.close()
        if self._log is not None:
            self._log.sync()

    def seed(
        self,
        table: str,
        reader: ExperienceLogReader,
        shard_index: int = 0,
        num_shards: int = 1,
        newest_transitions: int | None = None,
    ) -> int:
        """Fills a table from every `num_shards`-th chunk of a log; returns transitions stored. May be called any time.

        Raises: UserError if there is no such table or the log holds other chunks; CorruptDataError if it is damaged.
        """
        return _find(self._tables, table).seed(reader, LogPart(shard_index, num_shards, newest_transitions))


class _Servicer(replay_pb2_grpc.ReplayServicer):
    """Messages to calls of `ServedTable` and back; every refusal becomes a typed status."""

    def __init__(self, spec: ChunkSpec, tables: dict[str, ServedTable], local_address: str) -> None:
        self._spec, self._tables, self._local_address = spec, tables, local_address

    def Insert(self, request: replay_pb2.InsertRequest, context: grpc.ServicerContext) -> replay_pb2.InsertReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            chunks = table.verify(list(request.chunks))
            table.raise_max_priority(request.max_priority)
            num_accepted, stats = table.insert(
                chunks,
                writer_id=request.writer_id,
                first_sequence=request.first_sequence,
            )
            return replay_pb2.InsertReply(num_accepted=num_accepted, state=wire.stats_to_message(stats))

    def Reserve(self, request: replay_pb2.ReserveRequest, context: grpc.ServicerContext) -> replay_pb2.ReserveReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            if request.num_chunks < 1 or not request.waited_seconds >= 0:
                raise ValueError(f"num_chunks {request.num_chunks}, waited_seconds {request.waited_seconds}")
            num_chunks, stats = table.reserve(
                request.num_chunks,
                writer_id=request.writer_id,
                wait_seconds=bounded_wait(request.wait_seconds, context),
                waited_seconds=request.waited_seconds,
            )
            return replay_pb2.ReserveReply(num_chunks=num_chunks, state=wire.stats_to_message(stats))

    def Admit(self, request: replay_pb2.AdmitRequest, context: grpc.ServicerContext) -> replay_pb2.AdmitReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            if request.num_samples < 1:
                raise ValueError(f"num_samples {request.num_samples}: must be above 0")
            num_admitted, stats = table.admit(
                request.num_samples, wait_seconds=bounded_wait(request.wait_seconds, context)
            )
            return replay_pb2.AdmitReply(num_admitted=num_admitted, state=wire.stats_to_message(stats))

    def Sample(self, request: replay_pb2.SampleRequest, context: grpc.ServicerContext) -> replay_pb2.SampleReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            view = wire.view_from_message(request.view, self._spec)
            row_bytes = wire.DRAW_ROW_BYTES if request.keys_only else wire.sample_row_bytes(self._spec, view)
            if not 0 < request.batch_size * row_bytes < MAX_MESSAGE_BYTES:
                raise ValueError(f"batch_size {request.batch_size}: must be above 0 and fit one message")
            table.raise_max_priority(request.max_priority)
            packed = None
            if request.keys_only:
                draw, stats = table.draw(request.batch_size, view)
                columns = wire.draw_columns(draw)
            else:
                sample, stats = table.sample(request.batch_size, view, packed=request.packed)
                columns, packed = wire.sample_columns(sample), sample.packed
            return replay_pb2.SampleReply(
                columns=wire.encode_columns(columns),
                state=wire.stats_to_message(stats),
                packed=packed is not None,
                packed_frames=b"" if packed is None else packed.blob,
            )

    def Attach(self, request: replay_pb2.AttachRequest, context: grpc.ServicerContext) -> replay_pb2.AttachReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            incarnation = table.stats().incarnation
            if table.segment is None:
                return replay_pb2.AttachReply(incarnation=incarnation, local_address=self._local_address)
            handle = table.segment.handle
            return replay_pb2.AttachReply(
                pid=handle.pid,
                descriptor=handle.descriptor,
                token=handle.token,
                num_bytes=handle.num_bytes,
                num_slots=num_slots_of(table.config, self._spec),
                incarnation=incarnation,
                local_address=self._local_address,
            )

    def UpdatePriorities(
        self, request: replay_pb2.UpdatePrioritiesRequest, context: grpc.ServicerContext
    ) -> replay_pb2.UpdatePrioritiesReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            columns = wire.decode_columns(request.columns, wire.UPDATE_LAYOUT, max_rows=_MAX_UPDATES)
            table.raise_max_priority(request.max_priority)
            num_stale, stats = table.update_priorities(
                columns["slot"], columns["offset"], columns["generation"], columns["priority"]
            )
            return replay_pb2.UpdatePrioritiesReply(num_stale=num_stale, state=wire.stats_to_message(stats))

    def Stats(self, request: replay_pb2.StatsRequest, context: grpc.ServicerContext) -> replay_pb2.StatsReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            if not 0 <= request.n_step <= self._spec.lookahead:
                raise ValueError(
                    f"n_step {request.n_step}: these chunks carry {self._spec.lookahead} rows of lookahead"
                )
            if request.wait_seconds > 0:
                table.wait_for_change(request.known_revision, bounded_wait(request.wait_seconds, context))
            return replay_pb2.StatsReply(state=wire.stats_to_message(table.stats(n_step=request.n_step)))

    def Seed(self, request: replay_pb2.SeedRequest, context: grpc.ServicerContext) -> replay_pb2.SeedReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            part = LogPart(request.shard_index, request.num_shards, request.newest_transitions or None)
            if not 0 <= part.shard_index < part.num_shards:
                raise ValueError(f"shard_index {part.shard_index} of {part.num_shards} shards")
            num_transitions = table.seed_once(Path(request.log_directory), part)
            return replay_pb2.SeedReply(num_transitions=num_transitions, state=wire.stats_to_message(table.stats()))

    def Inspect(self, request: replay_pb2.InspectRequest, context: grpc.ServicerContext) -> replay_pb2.InspectReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            view = wire.view_from_message(request.view, self._spec)
            if not 0 <= request.num_windows <= inspection.MAX_WINDOWS:
                raise ValueError(f"num_windows {request.num_windows}: at most {inspection.MAX_WINDOWS}")
            contents, stats = table.inspect(request.num_windows, view, rng=np.random.default_rng())
            return inspection.to_message(inspection.TableInspection(contents, stats, tuple(sorted(self._tables))))


def _segment(config: TableConfig, spec: ChunkSpec) -> SharedSegment | None:
    """Shared memory for a table's arena; None where this system cannot share it."""
    if config.capacity_steps < 1 or not can_share():
        return None
    try:
        return SharedSegment(Arena.num_bytes(spec, num_slots_of(config, spec)))
    except OSError as error:  # a sandbox without memfd: windows go over gRPC instead
        _log.warning("memory_not_shared", table=config.name, reason=str(error))
        return None


def _find(tables: dict[str, ServedTable], name: str) -> ServedTable:
    if name not in tables:
        raise UserError("table", name, "there is no such table", f"this shard has {', '.join(sorted(tables))}")
    return tables[name]
