"""Inspections of tables as messages."""

from dataclasses import dataclass
from typing import Final

from replay_service.table.contents import (
    MAX_BIN,
    MAX_WINDOWS,
    MIN_BIN,
    QUANTILES,
    Ages,
    Histogram,
    ShownWindows,
    TableContents,
)
from replay_service.table.table_stats import TableStats
from replay_service.wire import codec, replay_pb2
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View, Windows

HISTOGRAM_LAYOUT: Final[codec.Layout] = {"lower": ("float64", ()), "count": ("int64", ())}
AGE_LAYOUT: Final[codec.Layout] = {"steps": ("int64", ()), "seconds": ("float64", ())}


@dataclass(frozen=True, slots=True, eq=False)
class TableInspection:
    """One table of one shard: what it holds, its counters, and the names of all tables there."""

    contents: TableContents
    stats: TableStats
    tables: tuple[str, ...]


def windows_layout(spec: ChunkSpec, view: View) -> codec.Layout:
    """The columns of `ShownWindows`."""
    return {
        "priority": ("float64", ()),
        "policy_version": ("int64", ()),
        "action": ("int64", ()),
        "n_step_return": ("float32", ()),
        "discount": ("float32", ()),
        "frames": (spec.frame_dtype, (view.stack + view.n_step, *spec.frame_shape)),
    }


def to_message(inspection: TableInspection) -> replay_pb2.InspectReply:
    """An inspection as a message."""
    contents, shown = inspection.contents, inspection.contents.shown
    return replay_pb2.InspectReply(
        state=codec.stats_to_message(inspection.stats),
        tables=inspection.tables,
        reserved_bytes=contents.reserved_bytes,
        held_bytes=contents.held_bytes,
        priorities=codec.encode_columns({"lower": contents.priorities.lower, "count": contents.priorities.count}),
        ages=codec.encode_columns({"steps": contents.ages.steps, "seconds": contents.ages.seconds}),
        stalest_policy_version=contents.stalest_policy_version,
        newest_policy_version=contents.newest_policy_version,
        windows=codec.encode_columns(
            {
                "priority": shown.priority,
                "policy_version": shown.policy_version,
                "action": shown.windows.action,
                "n_step_return": shown.windows.n_step_return,
                "discount": shown.windows.discount,
                "frames": shown.windows.frames,
            }
        ),
    )


def from_message(message: replay_pb2.InspectReply, spec: ChunkSpec, view: View) -> TableInspection:
    """Inverse of `to_message`. Raises CorruptDataError if columns are not what they should be."""
    priorities = codec.decode_columns(message.priorities, HISTOGRAM_LAYOUT, max_rows=MAX_BIN - MIN_BIN + 1)
    age = codec.decode_columns(message.ages, AGE_LAYOUT, max_rows=len(QUANTILES))
    shown = codec.decode_columns(message.windows, windows_layout(spec, view), max_rows=MAX_WINDOWS)
    is_filled = message.HasField("newest_policy_version")
    return TableInspection(
        contents=TableContents(
            reserved_bytes=message.reserved_bytes,
            held_bytes=message.held_bytes,
            priorities=Histogram(priorities["lower"], priorities["count"]),
            ages=Ages(age["steps"], age["seconds"]),
            stalest_policy_version=message.stalest_policy_version if is_filled else None,
            newest_policy_version=message.newest_policy_version if is_filled else None,
            shown=ShownWindows(
                Windows(shown["frames"], shown["action"], shown["n_step_return"], shown["discount"]),
                shown["priority"],
                shown["policy_version"],
            ),
        ),
        stats=codec.stats_from_message(message.state),
        tables=tuple(message.tables),
    )
