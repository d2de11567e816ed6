"""A replay shard: the gRPC server around its tables."""

import math
import secrets
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
import numpy as np
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from replay_service.server.arena_segment import arena_segment
from replay_service.server.log_sink import LOGGED_TABLE, LogPart, SharedLog
from replay_service.server.pooled_methods import InThreads
from replay_service.server.served_table import ServedTable
from replay_service.server.servicer import Servicer, find
from replay_service.server.size_gauge import SizeGauge
from replay_service.table.table import Table
from replay_service.table.table_stats import TableStats
from replay_service.table.types import TableConfig
from replay_service.wire import replay_pb2_grpc
from replay_service.wire.channel_options import COMMON_OPTIONS, SERVER_OPTIONS
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.runs.metrics import Metrics

_log = structlog.get_logger(__name__)

_NUM_INSERTS: Final = 2
"""Inserts worked on at a time, by threads of their own: one is checked while another is stored. More of them would only
hold more messages; those of the others wait in their connections, unread, in order of arrival."""

_MAX_WRITERS: Final = 128  # waiting for room
_MAX_READERS: Final = 32  # waiting for samples or for chunks
_NUM_THREADS: Final = _MAX_WRITERS + _MAX_READERS + 16  # so that 16 are left for calls that are answered at once
_MAX_CALLS: Final = 2048  # any more are refused at once; clients come back later


class ReplayShard:
    """One shard of the replay service, served over gRPC.

    What an insert into the table `online` has acknowledged is in `log` and survives the death of this process. The
    account of the limiter and the generations of slots begin anew with each shard object.

    Args:
      log: of this shard alone, if it keeps one. The shard syncs it when it stops; whoever opened it closes it after
        that.
      metrics: where it counts; by default in an object of its own that nothing serves.
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
        log: ExperienceLogWriter | None = None,
        metrics: Metrics | None = None,
        rng: np.random.Generator | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        shared_memory: bool = True,
    ) -> None:
        self.index, self.spec = index, spec
        self._host, self._port = host, port
        self._log = SharedLog(log) if log is not None else None
        metrics = metrics or Metrics("replay", "run", index)
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
        servicer = Servicer(spec, self._tables, local_address)
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

    def trim_log(self, max_transitions: int | None) -> int:
        """Removes the oldest files of the log while the others hold so many transitions or more (None: never).

        May be called any time. Returns: bytes of the log, 0 without one. Raises: UserError if the disk is full.
        """
        if self._log is None:
            return 0
        return self._log.trim(max_transitions if max_transitions is not None else sys.maxsize)

    def drain(self, draining: bool = True) -> None:
        """Takes no more chunks, or takes them again; see `ServedTable.drain`. May be called any time."""
        for table in self._tables.values():
            table.drain(draining)

    def stats(self, table: str) -> TableStats:
        """Counters of a table, as clients get them. Raises: UserError if there is no such table."""
        return find(self._tables, table).stats()

    def oldest_seconds(self, table: str) -> float | None:
        """How long ago the oldest chunk of a table came; None if it was seeded, or there is none."""
        seconds = find(self._tables, table).oldest_seconds()
        return None if math.isnan(seconds) else seconds

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
        return find(self._tables, table).seed(reader, LogPart(shard_index, num_shards, newest_transitions))
