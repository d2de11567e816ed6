"""What a table holds, as numbers and windows that a person reads. Pure; and its messages."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from replay_service.wire import codec, replay_pb2
from replay_service.table.types import TableStats
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View, Windows

QUANTILES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of the ages: the youngest tenth of all transitions is not older than the second value, and so on."""

MAX_WINDOWS: Final = 64
"""Windows of one request: enough for a person, little for the shard."""

_MIN_BIN, _MAX_BIN = -64, 64

HISTOGRAM_LAYOUT: Final[codec.Layout] = {"lower": ("float64", ()), "count": ("int64", ())}
AGE_LAYOUT: Final[codec.Layout] = {"steps": ("int64", ()), "seconds": ("float64", ())}


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Values by powers of two: `count[i]` of them lie in [lower[i], 2 lower[i]).

    Attributes:
      lower: float64 [N], ascending, each twice the one before; empty if there are no values. The first bin also holds
        whatever lies below it, the last whatever lies above.
      count: int64 [N].
    """

    lower: Array
    count: Array


@dataclass(frozen=True, slots=True, eq=False)
class Ages:
    """How long ago the transitions of a table came in, at `QUANTILES` of all of them.

    Attributes:
      steps: int64 [5], transitions that have come in since; empty if the table is.
      seconds: float64 [5], among those whose time is known; not a number if none is (seeded ones carry no time).
    """

    steps: Array
    seconds: Array


@dataclass(frozen=True, slots=True, eq=False)
class ShownWindows:
    """B windows for a contact sheet, drawn as a learner would draw them.

    Attributes:
      windows: the transitions.
      priority: float64 [B].
      policy_version: int64 [B].
    """

    windows: Windows
    priority: Array
    policy_version: Array


@dataclass(frozen=True, slots=True, eq=False)
class TableContents:
    """What one table of one shard holds.

    Attributes:
      reserved_bytes, held_bytes: memory of the arena, and of the rows in it.
      priorities: of the transitions that can be drawn, before the exponent.
      stalest_policy_version, newest_policy_version: that any stored transition was acted by; None in an empty table.
    """

    reserved_bytes: int
    held_bytes: int
    priorities: Histogram
    ages: Ages
    stalest_policy_version: int | None
    newest_policy_version: int | None
    shown: ShownWindows


@dataclass(frozen=True, slots=True, eq=False)
class TableInspection:
    """One table of one shard: what it holds, its counters, and the names of all tables there."""

    contents: TableContents
    stats: TableStats
    tables: tuple[str, ...]


def histogram(values: Array) -> Histogram:
    """Counts values, float64 [M], finite and above 0, by powers of two."""
    if not len(values):
        return Histogram(np.zeros(0), np.zeros(0, np.int64))
    exponents = np.clip(np.frexp(values)[1] - 1, _MIN_BIN, _MAX_BIN)  # frexp's mantissa lies in [0.5, 1)
    lowest = int(exponents.min())
    count = np.bincount(exponents - lowest).astype(np.int64)
    return Histogram(np.ldexp(1.0, np.arange(lowest, lowest + len(count))), count)


def ages(num_transitions: Array, generation: Array, stored_seconds: Array, now: float) -> Ages:
    """Ages of the transitions of a table.

    Args:
      num_transitions: int64 [S], by slot.
      generation: int64 [S], by slot; a younger chunk has the higher one.
      stored_seconds: float64 [S], when each slot was filled, on the clock of `now`; not a number where unknown.
    """
    filled = np.flatnonzero(num_transitions)
    if not len(filled):
        return Ages(np.zeros(0, np.int64), np.zeros(0))
    newest_first = filled[np.argsort(-generation[filled])]
    counts = num_transitions[newest_first]
    steps = np.cumsum(counts) - counts  # what came in after the slot, all of which is still there
    elapsed = now - stored_seconds[newest_first]
    known = ~np.isnan(elapsed)
    seconds = _quantiles(elapsed[known], counts[known]) if known.any() else np.full(len(QUANTILES), np.nan)
    return Ages(_quantiles(steps, counts), seconds)


def _quantiles(values: Array, counts: Array) -> Array:
    """`QUANTILES` of `values`, each of which stands for `counts` transitions."""
    order = np.argsort(values, kind="stable")
    upto: Array = np.cumsum(counts[order])
    return values[order][np.searchsorted(upto, np.array(QUANTILES) * upto[-1])]


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
    priorities = codec.decode_columns(message.priorities, HISTOGRAM_LAYOUT, max_rows=_MAX_BIN - _MIN_BIN + 1)
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
