"""Columns to bytes and back, for everything in the replay service that is no chunk; and counters to messages.

A payload is a versioned header that names every column's dtype and shape, then the raw column bytes, the widest types
first so that each column is aligned. The reader knows which columns, dtypes and row shapes it wants, and refuses
anything else.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import numpy as np

from replay_service.storage.packed_windows import PACKED_LAYOUT, PackedWindows
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ScanCursor, TableDraw, TableSample
from replay_service.wire import replay_pb2
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View, Windows

Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of one row of each column."""

DRAW_LAYOUT: Final[Layout] = {
    "slot": ("int64", ()),
    "offset": ("int64", ()),
    "generation": ("int64", ()),
    "probability": ("float64", ()),
}
"""The columns of a sample reply to a client that reads the windows itself."""

UPDATE_LAYOUT: Final[Layout] = {
    "slot": ("int64", ()),
    "offset": ("int64", ()),
    "generation": ("int64", ()),
    "priority": ("float64", ()),
}

DRAW_ROW_BYTES: Final = 4 * 8
"""Bytes of one transition in a reply of keys alone."""

_STATE_FIELDS: Final = {field.name for field in replay_pb2.TableState.DESCRIPTOR.fields}
_FLOW_FIELDS: Final = tuple(field.name for field in fields(Flow) if field.name in _STATE_FIELDS)
_STATS_FIELDS: Final = tuple(field.name for field in fields(TableStats) if field.name in _STATE_FIELDS)

_MAGIC: Final = b"UPCW"
_VERSION: Final = 1
_PREFIX: Final = struct.Struct("<4sHHI")  # magic, version, reserved, header bytes; 12 bytes
_ALIGNMENT: Final = 8


def annotation_layout(width: int) -> Layout:
    """The columns of a request to annotate."""
    keys: Layout = {name: row for name, row in UPDATE_LAYOUT.items() if name != "priority"}
    return {**keys, "annotation": ("float32", (width,))}


def sample_layout(spec: ChunkSpec, view: View, annotation_width: int = 0) -> Layout:
    """The columns of a sample reply of a table of that width."""
    annotations: Layout = {"annotation": ("float32", (annotation_width,)), "annotated": ("bool", ())}
    return {
        **DRAW_LAYOUT,
        "policy_version": ("int64", ()),
        "action": ("int64", ()),
        "n_step_return": ("float32", ()),
        "discount": ("float32", ()),
        "frames": (spec.frame_dtype, (view.stack + view.n_step, *spec.frame_shape)),
        **(annotations if annotation_width else {}),
    }


def packed_layout(spec: ChunkSpec, view: View, annotation_width: int = 0) -> Layout:
    """The columns of a packed sample reply."""
    layout = sample_layout(spec, view, annotation_width)
    return {name: row for name, row in layout.items() if name != "frames"} | PACKED_LAYOUT


def sample_row_bytes(spec: ChunkSpec, view: View, annotation_width: int = 0) -> int:
    """Bytes of one transition in a sample reply."""
    layout = sample_layout(spec, view, annotation_width).values()
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in layout)


def draw_columns(draw: TableDraw) -> dict[str, Array]:
    """The columns of `DRAW_LAYOUT`."""
    return {
        "slot": draw.slot,
        "offset": draw.offset,
        "generation": draw.generation,
        "probability": draw.probability,
    }


def sample_columns(sample: TableSample) -> dict[str, Array]:
    """The columns of `sample_layout`, or of `packed_layout` if the sample is packed."""
    windows: Windows = sample.windows
    frames = {"frames": windows.frames} if sample.packed is None else sample.packed.columns
    annotations = {"annotation": sample.annotation, "annotated": sample.annotated}
    return {
        **draw_columns(sample.draw),
        "policy_version": sample.policy_version,
        "action": windows.action,
        "n_step_return": windows.n_step_return,
        "discount": windows.discount,
        **frames,
        **{name: column for name, column in annotations.items() if column is not None},
    }


def encode_columns(columns: Mapping[str, Array]) -> bytes:
    """Columns of equal length as one payload; the column bytes are copied once."""
    ordered = sorted(columns.items(), key=lambda item: -item[1].dtype.itemsize)
    header = json.dumps([[name, array.dtype.str, list(array.shape)] for name, array in ordered]).encode()
    header += b" " * (-(_PREFIX.size + len(header)) % _ALIGNMENT)
    bodies = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in ordered]
    return b"".join((_PREFIX.pack(_MAGIC, _VERSION, 0, len(header)), header, *bodies))


def decode_columns(data: bytes, layout: Layout, *, max_rows: int) -> dict[str, Array]:
    """Inverse of `encode_columns`; the arrays are read-only views into `data`.

    Raises: CorruptDataError if the columns, a dtype, a row shape, the number of rows (the same for all columns, at most
      `max_rows`) or the length is not as wanted.
    """
    entries = _read_header(data)
    names = [name for name, _, _ in entries]
    if sorted(names) != sorted(layout):
        raise CorruptDataError(f"payload refused: columns {sorted(names)} instead of {sorted(layout)}")
    num_rows = entries[0][2][0] if entries[0][2] else -1
    if not 0 <= num_rows <= max_rows:
        raise CorruptDataError(f"payload refused: {num_rows} rows, at most {max_rows} were asked for")
    offset, columns = _PREFIX.size + _PREFIX.unpack_from(data)[3], dict[str, Array]()
    for name, dtype, shape in entries:
        wanted_dtype, row_shape = np.dtype(layout[name][0]), layout[name][1]
        if dtype != wanted_dtype.str or shape != (num_rows, *row_shape):
            wanted = f"{wanted_dtype.str} {(num_rows, *row_shape)}"
            raise CorruptDataError(f"payload refused: column {name!r} is {dtype} {shape} instead of {wanted}")
        count = int(np.prod(shape, dtype=np.int64))
        size = count * wanted_dtype.itemsize
        if offset + size > len(data):
            raise CorruptDataError(f"payload refused: column {name!r} runs past the data (truncated message)")
        columns[name] = np.frombuffer(data, wanted_dtype, count, offset).reshape(shape)
        offset += size
    if offset != len(data):
        raise CorruptDataError(f"payload refused: {len(data) - offset} bytes left over after the last column")
    return columns


def _read_header(data: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each column, at least one."""
    if len(data) < _PREFIX.size:
        raise CorruptDataError(f"payload refused: {len(data)} bytes are shorter than its header")
    magic, version, _, header_bytes = _PREFIX.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        expected = f"this build reads {_MAGIC!r}, {_VERSION}"
        raise CorruptDataError(f"payload refused: magic {magic!r}, version {version}; {expected}")
    try:
        header: Any = json.loads(data[_PREFIX.size : _PREFIX.size + header_bytes])
        entries = [(str(name), str(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in header]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptDataError(f"payload refused: unreadable header ({error})") from error
    if not entries:
        raise CorruptDataError("payload refused: no columns")
    return entries


def view_to_message(view: View) -> replay_pb2.View:
    """A view as a message."""
    return replay_pb2.View(
        n_step=view.n_step,
        stack=view.stack,
        gamma=view.gamma,
        clip_rewards=view.clip_rewards,
        stack_fill=view.stack_fill,
    )


def view_from_message(message: replay_pb2.View, spec: ChunkSpec) -> View:
    """Inverse of `view_to_message`. Raises ValueError if chunks of `spec` cannot be seen this way."""
    if message.stack_fill not in ("first_frame", "zeros"):
        raise ValueError(f"stack_fill {message.stack_fill!r}: must be first_frame or zeros")
    view = View(
        n_step=message.n_step,
        stack=message.stack,
        gamma=message.gamma,
        clip_rewards=message.clip_rewards,
        stack_fill="zeros" if message.stack_fill == "zeros" else "first_frame",
    )
    view.check(spec)
    return view


def sample_to_message(sample: TableSample, stats: TableStats) -> replay_pb2.SampleReply:
    """A sample with its windows as a message."""
    return replay_pb2.SampleReply(
        columns=encode_columns(sample_columns(sample)),
        state=stats_to_message(stats),
        packed_codec="" if sample.packed is None else sample.packed.codec,
        packed_frames=b"" if sample.packed is None else sample.packed.blob,
    )


def sample_from_message(
    message: replay_pb2.SampleReply, spec: ChunkSpec, view: View, *, max_rows: int
) -> tuple[dict[str, Array], PackedWindows | None]:
    """The columns of `sample_layout`; those of a packed one are without `frames`, which come by themselves.

    Raises: CorruptDataError if the message is not what it should be.
    """
    width = message.state.annotation_width
    if not message.packed_codec:
        return decode_columns(message.columns, sample_layout(spec, view, width), max_rows=max_rows), None
    columns = decode_columns(message.columns, packed_layout(spec, view, width), max_rows=max_rows)
    frames = PackedWindows.from_wire(message.packed_codec, columns, message.packed_frames, view)
    return {name: columns[name] for name in columns.keys() - PACKED_LAYOUT.keys()}, frames


def cursor_to_message(cursor: ScanCursor) -> replay_pb2.ScanCursor:
    """A cursor as a message."""
    return replay_pb2.ScanCursor(
        generation=cursor.generation, offset=cursor.offset, last_generation=cursor.last_generation
    )


def cursor_from_message(message: replay_pb2.ScanCursor) -> ScanCursor:
    """Inverse of `cursor_to_message`. Raises ValueError if there is no such place."""
    if min(message.generation, message.offset, message.last_generation) < 0:
        raise ValueError("cursor: nothing of it may be below 0")
    return ScanCursor(message.generation, message.offset, message.last_generation)


def stats_to_message(stats: TableStats) -> replay_pb2.TableState:
    """One shard's counters as a message."""
    values = {name: getattr(stats.flow, name) for name in _FLOW_FIELDS}
    values |= {name: getattr(stats, name) for name in _STATS_FIELDS}
    return replay_pb2.TableState(independent_draws=not stats.stratified, **values)  # None leaves a field out


def stats_from_message(message: replay_pb2.TableState) -> TableStats:
    """Inverse of `stats_to_message`."""
    values: dict[str, Any] = {name: getattr(message, name) for name in _FLOW_FIELDS}
    values["samples_per_insert"] = message.samples_per_insert or None
    flow = Flow(**values)
    values = {name: getattr(message, name) for name in _STATS_FIELDS}
    if not message.HasField("num_inserted_before"):
        del values["num_inserted_before"]
    return TableStats(flow=flow, stratified=not message.independent_draws, **values)
