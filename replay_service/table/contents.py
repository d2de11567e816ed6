"""What a table holds, as numbers and windows that a person reads. Pure."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from replay_service.table.tiers import Storage
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View, Windows

QUANTILES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of the ages: the youngest tenth of all transitions is not older than the second value, and so on."""

MAX_WINDOWS: Final = 64
"""Windows of one request: enough for a person, little for the shard."""

MIN_BIN, MAX_BIN = -64, 64
"""Exponents of the first and the last bin of a histogram."""


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


def histogram(values: Array) -> Histogram:
    """Counts values, float64 [M], finite and above 0, by powers of two."""
    if not len(values):
        return Histogram(np.zeros(0), np.zeros(0, np.int64))
    exponents = np.clip(np.frexp(values)[1] - 1, MIN_BIN, MAX_BIN)  # frexp's mantissa lies in [0.5, 1)
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


def policy_versions(storage: Storage, filled: Array) -> tuple[int | None, int | None]:
    """The stalest and the newest version that any transition of these slots, bool [S], was acted by; None if none."""
    usable = slice(storage.spec.history, storage.spec.history + storage.spec.steps)
    columns = {name: storage.columns[name][filled, usable] for name in ("policy_version", "priority")}
    versions = columns["policy_version"][columns["priority"] > 0]
    return (int(versions.min()), int(versions.max())) if len(versions) else (None, None)


def show(storage: Storage, items: Array, priorities: Array, view: View) -> ShownWindows:
    """The windows of items, int64 [B], with the priorities of all items, float64 [S x steps]."""
    slot, offset = np.divmod(items, storage.spec.steps)
    return ShownWindows(
        storage.gather(slot, offset, view),
        priorities[items],
        storage.columns["policy_version"][slot, offset + storage.spec.history],
    )
