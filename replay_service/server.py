"""A replay shard: the gRPC server around its tables."""

import secrets
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, cast

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from replay_service import inspection, replay_pb2, replay_pb2_grpc, wire
from replay_service.arena_segment import arena_segment
from replay_service.failures import typed_refusals
from replay_service.options import COMMON_OPTIONS, MAX_MESSAGE_BYTES, SERVER_OPTIONS
from replay_service.served_table import LOGGED_TABLE, ServedTable
from replay_service.shared_log import LogPart, SharedLog
from replay_service.size_gauge import SizeGauge
from replay_service.table import Table
from replay_service.table_checks import num_slots_of
from replay_service.types import TableConfig, TableStats
from upcycle.chunks import ChunkSpec
from upcycle.errors import UserError
from upcycle.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.metrics import Metrics

_log = structlog.get_logger(__name__)

_NUM_THREADS: Final = 16
_MAX_WAIT_SECONDS: Final = 5.0  # the longest a call is held back, whatever it asks for
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
            segment = arena_segment(config, spec) if shared_memory and config.tier == "raw" else None
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
                max_waiters=_NUM_THREADS // 4,
                segment=segment,
            )
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix=f"replay-{index}")
        self._server = grpc.server(self._threads, options=[*COMMON_OPTIONS, *SERVER_OPTIONS])
        self._health = health.HealthServicer()
        self._stopped = threading.Event()
        local_address = self._listen_locally()
        replay_pb2_grpc.add_ReplayServicer_to_server(_Servicer(spec, self._tables, local_address), self._server)
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
        self._threads.shutdown(wait=True)
        for table in self._tables.values():
            if table.segment is not None:
                table.segment.close()
        if self._log is not None:
            self._log.sync()

    def drain(self, draining: bool = True) -> None:
        """Takes no more chunks, or takes them again; see `ServedTable.drain`. May be called any time."""
        for table in self._tables.values():
            table.drain(draining)

    def stats(self, table: str) -> TableStats:
        """Counters of a table, as clients get them. Raises: UserError if there is no such table."""
        return _find(self._tables, table).stats()

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
                wait_seconds=_bounded_wait(request.wait_seconds, context),
            )
            return replay_pb2.InsertReply(num_accepted=num_accepted, state=wire.stats_to_message(stats))

    def Admit(self, request: replay_pb2.AdmitRequest, context: grpc.ServicerContext) -> replay_pb2.AdmitReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            if request.num_samples < 1:
                raise ValueError(f"num_samples {request.num_samples}: must be above 0")
            num_admitted, stats = table.admit(
                request.num_samples, wait_seconds=_bounded_wait(request.wait_seconds, context)
            )
            return replay_pb2.AdmitReply(num_admitted=num_admitted, state=wire.stats_to_message(stats))

    def Sample(self, request: replay_pb2.SampleRequest, context: grpc.ServicerContext) -> replay_pb2.SampleReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            view = wire.view_from_message(request.view, self._spec)
            row_bytes = (
                wire.DRAW_ROW_BYTES
                if request.keys_only
                else wire.sample_row_bytes(self._spec, view, table.config.annotation_width)
            )
            _check_batch_size(request.batch_size, row_bytes)
            table.raise_max_priority(request.max_priority)
            if request.keys_only:
                draw, stats = table.draw(request.batch_size, view)
                columns = wire.encode_columns(wire.draw_columns(draw))
                return replay_pb2.SampleReply(columns=columns, state=wire.stats_to_message(stats))
            sample, stats = table.sample(request.batch_size, view, packed=request.packed)
            return wire.sample_to_message(sample, stats)

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
                annotation_width=table.config.annotation_width,
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

    def Annotate(self, request: replay_pb2.AnnotateRequest, context: grpc.ServicerContext) -> replay_pb2.AnnotateReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            layout = wire.annotation_layout(table.config.annotation_width)
            columns = wire.decode_columns(request.columns, layout, max_rows=_MAX_UPDATES)
            num_stale, stats = table.annotate(
                columns["slot"], columns["offset"], columns["generation"], columns["annotation"]
            )
            return replay_pb2.AnnotateReply(num_stale=num_stale, state=wire.stats_to_message(stats))

    def Scan(self, request: replay_pb2.ScanRequest, context: grpc.ServicerContext) -> replay_pb2.ScanReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            view = wire.view_from_message(request.view, self._spec)
            _check_batch_size(
                request.batch_size, wire.sample_row_bytes(self._spec, view, table.config.annotation_width)
            )
            sample, cursor, ended, stats = table.scan(
                wire.cursor_from_message(request.cursor),
                request.batch_size,
                view,
                only_missing=request.only_missing,
                packed=request.packed,
            )
            reply = wire.sample_to_message(sample, stats)
            return replay_pb2.ScanReply(sample=reply, cursor=wire.cursor_to_message(cursor), ended=ended)

    def Stats(self, request: replay_pb2.StatsRequest, context: grpc.ServicerContext) -> replay_pb2.StatsReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            if not 0 <= request.n_step <= self._spec.lookahead:
                raise ValueError(
                    f"n_step {request.n_step}: these chunks carry {self._spec.lookahead} rows of lookahead"
                )
            if request.wait_seconds > 0:
                table.wait_for_change(request.known_revision, _bounded_wait(request.wait_seconds, context))
            return replay_pb2.StatsReply(state=wire.stats_to_message(table.stats(n_step=request.n_step)))

    def Seed(self, request: replay_pb2.SeedRequest, context: grpc.ServicerContext) -> replay_pb2.SeedReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            part = LogPart(request.shard_index, request.num_shards, request.newest_transitions or None)
            if not 0 <= part.shard_index < part.num_shards:
                raise ValueError(f"shard_index {part.shard_index} of {part.num_shards} shards")
            num_transitions = table.seed_once(Path(request.log_directory), part)
            return replay_pb2.SeedReply(num_transitions=num_transitions, state=wire.stats_to_message(table.stats()))

    def Drain(self, request: replay_pb2.DrainRequest, context: grpc.ServicerContext) -> replay_pb2.DrainReply:
        with typed_refusals(context):
            for table in self._tables.values():
                table.drain(not request.cancel)
            states = {name: wire.stats_to_message(table.stats()) for name, table in self._tables.items()}
            return replay_pb2.DrainReply(states=states)

    def Inspect(self, request: replay_pb2.InspectRequest, context: grpc.ServicerContext) -> replay_pb2.InspectReply:
        with typed_refusals(context):
            table = _find(self._tables, request.table)
            view = wire.view_from_message(request.view, self._spec)
            if not 0 <= request.num_windows <= inspection.MAX_WINDOWS:
                raise ValueError(f"num_windows {request.num_windows}: at most {inspection.MAX_WINDOWS}")
            contents, stats = table.inspect(request.num_windows, view, rng=np.random.default_rng())
            return inspection.to_message(inspection.TableInspection(contents, stats, tuple(sorted(self._tables))))


def _find(tables: dict[str, ServedTable], name: str) -> ServedTable:
    if name not in tables:
        raise UserError("table", name, "there is no such table", f"this shard has {', '.join(sorted(tables))}")
    return tables[name]


def _check_batch_size(batch_size: int, row_bytes: int) -> None:
    if not 0 < batch_size * row_bytes < MAX_MESSAGE_BYTES:
        raise ValueError(f"batch_size {batch_size}: must be above 0 and fit one message")


def _bounded_wait(wait_seconds: float, context: grpc.ServicerContext) -> float:
    """Less than the caller's own deadline, so that the answer still reaches it."""
    remaining = cast(float | None, context.time_remaining())  # None without a deadline, whatever the stubs say
    return max(0.0, min(wait_seconds, _MAX_WAIT_SECONDS, 0.8 * remaining if remaining is not None else wait_seconds))
