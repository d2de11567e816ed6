"""The calls that a replay shard answers: messages to calls of its tables, and back."""

import threading
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from replay_service.server.log_sink import LogPart
from replay_service.server.pooled_methods import bounded_wait
from replay_service.server.served_table import ServedTable
from replay_service.table.contents import MAX_WINDOWS
from replay_service.table.validation import num_slots_of
from replay_service.wire import codec, inspection_messages, replay_pb2, replay_pb2_grpc
from replay_service.wire.channel_options import MAX_MESSAGE_BYTES
from replay_service.wire.errors import typed_refusals
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader

_MAX_UPDATES: Final = 1 << 20


class Servicer(replay_pb2_grpc.ReplayServicer):
    """Messages to calls of `ServedTable` and back; every refusal becomes a typed status."""

    def __init__(self, spec: ChunkSpec, tables: dict[str, ServedTable], local_address: str) -> None:
        self._spec, self._tables, self._local_address = spec, tables, local_address
        self._seeding = threading.Lock()  # guards the one below, and is held while a table is seeded
        self._seeded = dict[tuple[str, Path, LogPart], int]()

    def Insert(self, request: replay_pb2.InsertRequest, context: grpc.ServicerContext) -> replay_pb2.InsertReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            chunks = table.verify(list(request.chunks))
            table.raise_max_priority(request.max_priority)
            num_accepted, stats = table.insert(
                chunks,
                writer_id=request.writer_id,
                first_sequence=request.first_sequence,
            )
            return replay_pb2.InsertReply(num_accepted=num_accepted, state=codec.stats_to_message(stats))

    def Reserve(self, request: replay_pb2.ReserveRequest, context: grpc.ServicerContext) -> replay_pb2.ReserveReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            if request.num_chunks < 1 or not request.waited_seconds >= 0:
                raise ValueError(f"num_chunks {request.num_chunks}, waited_seconds {request.waited_seconds}")
            num_chunks, stats = table.reserve(
                request.num_chunks,
                writer_id=request.writer_id,
                wait_seconds=bounded_wait(request.wait_seconds, context),
                waited_seconds=request.waited_seconds,
            )
            return replay_pb2.ReserveReply(num_chunks=num_chunks, state=codec.stats_to_message(stats))

    def Admit(self, request: replay_pb2.AdmitRequest, context: grpc.ServicerContext) -> replay_pb2.AdmitReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            if request.num_samples < 1:
                raise ValueError(f"num_samples {request.num_samples}: must be above 0")
            num_admitted, stats = table.admit(
                request.num_samples, wait_seconds=bounded_wait(request.wait_seconds, context)
            )
            return replay_pb2.AdmitReply(num_admitted=num_admitted, state=codec.stats_to_message(stats))

    def Sample(self, request: replay_pb2.SampleRequest, context: grpc.ServicerContext) -> replay_pb2.SampleReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            view = codec.view_from_message(request.view, self._spec)
            row_bytes = (
                codec.DRAW_ROW_BYTES
                if request.keys_only
                else codec.sample_row_bytes(self._spec, view, table.config.annotation_width)
            )
            _check_batch_size(request.batch_size, row_bytes)
            table.raise_max_priority(request.max_priority)
            rng = np.random.default_rng(request.draw_seed) if request.HasField("draw_seed") else None
            if request.keys_only:
                draw, stats = table.draw(request.batch_size, view, rng=rng)
                columns = codec.encode_columns(codec.draw_columns(draw))
                return replay_pb2.SampleReply(columns=columns, state=codec.stats_to_message(stats))
            sample, stats = table.sample(request.batch_size, view, packed=request.packed, rng=rng)
            return codec.sample_to_message(sample, stats)

    def Attach(self, request: replay_pb2.AttachRequest, context: grpc.ServicerContext) -> replay_pb2.AttachReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
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
            table = find(self._tables, request.table)
            columns = codec.decode_columns(request.columns, codec.UPDATE_LAYOUT, max_rows=_MAX_UPDATES)
            table.raise_max_priority(request.max_priority)
            num_stale, stats = table.update_priorities(
                columns["slot"], columns["offset"], columns["generation"], columns["priority"]
            )
            return replay_pb2.UpdatePrioritiesReply(num_stale=num_stale, state=codec.stats_to_message(stats))

    def Annotate(self, request: replay_pb2.AnnotateRequest, context: grpc.ServicerContext) -> replay_pb2.AnnotateReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            layout = codec.annotation_layout(table.config.annotation_width)
            columns = codec.decode_columns(request.columns, layout, max_rows=_MAX_UPDATES)
            num_stale, stats = table.annotate(
                columns["slot"], columns["offset"], columns["generation"], columns["annotation"]
            )
            return replay_pb2.AnnotateReply(num_stale=num_stale, state=codec.stats_to_message(stats))

    def Scan(self, request: replay_pb2.ScanRequest, context: grpc.ServicerContext) -> replay_pb2.ScanReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            view = codec.view_from_message(request.view, self._spec)
            _check_batch_size(
                request.batch_size, codec.sample_row_bytes(self._spec, view, table.config.annotation_width)
            )
            sample, cursor, ended, stats = table.scan(
                codec.cursor_from_message(request.cursor),
                request.batch_size,
                view,
                only_missing=request.only_missing,
                packed=request.packed,
            )
            reply = codec.sample_to_message(sample, stats)
            return replay_pb2.ScanReply(sample=reply, cursor=codec.cursor_to_message(cursor), ended=ended)

    def Stats(self, request: replay_pb2.StatsRequest, context: grpc.ServicerContext) -> replay_pb2.StatsReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            if not 0 <= request.n_step <= self._spec.lookahead:
                raise ValueError(
                    f"n_step {request.n_step}: these chunks carry {self._spec.lookahead} rows of lookahead"
                )
            if request.wait_seconds > 0:
                table.wait_for_change(request.known_revision, bounded_wait(request.wait_seconds, context))
            return replay_pb2.StatsReply(state=codec.stats_to_message(table.stats(n_step=request.n_step)))

    def Seed(self, request: replay_pb2.SeedRequest, context: grpc.ServicerContext) -> replay_pb2.SeedReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            part = LogPart(request.shard_index, request.num_shards, request.newest_transitions or None)
            if not 0 <= part.shard_index < part.num_shards:
                raise ValueError(f"shard_index {part.shard_index} of {part.num_shards} shards")
            num_transitions = self._seed_once(request.table, Path(request.log_directory), part)
            return replay_pb2.SeedReply(num_transitions=num_transitions, state=codec.stats_to_message(table.stats()))

    def Drain(self, request: replay_pb2.DrainRequest, context: grpc.ServicerContext) -> replay_pb2.DrainReply:
        with typed_refusals(context):
            for table in self._tables.values():
                table.drain(not request.cancel)
            states = {name: codec.stats_to_message(table.stats()) for name, table in self._tables.items()}
            return replay_pb2.DrainReply(states=states)

    def Inspect(self, request: replay_pb2.InspectRequest, context: grpc.ServicerContext) -> replay_pb2.InspectReply:
        with typed_refusals(context):
            table = find(self._tables, request.table)
            view = codec.view_from_message(request.view, self._spec)
            if not 0 <= request.num_windows <= MAX_WINDOWS:
                raise ValueError(f"num_windows {request.num_windows}: at most {MAX_WINDOWS}")
            contents, stats = table.inspect(request.num_windows, view, rng=np.random.default_rng())
            return inspection_messages.to_message(
                inspection_messages.TableInspection(contents, stats, tuple(sorted(self._tables)))
            )

    def _seed_once(self, name: str, directory: Path, part: LogPart) -> int:
        """Seeds a table with a part of a log; the same a second time stores nothing more."""
        with self._seeding:
            if (name, directory, part) not in self._seeded:
                seeded = find(self._tables, name).seed(ExperienceLogReader.open(directory), part)
                self._seeded[name, directory, part] = seeded
            return self._seeded[name, directory, part]


def find(tables: dict[str, ServedTable], name: str) -> ServedTable:
    """The table of this name. Raises: UserError if there is none."""
    if name not in tables:
        raise UserError("table", name, "there is no such table", f"this shard has {', '.join(sorted(tables))}")
    return tables[name]


def _check_batch_size(batch_size: int, row_bytes: int) -> None:
    if not 0 < batch_size * row_bytes < MAX_MESSAGE_BYTES:
        raise ValueError(f"batch_size {batch_size}: must be above 0 and fit one message")
