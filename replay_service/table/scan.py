"""A pass over a table in the order in which its chunks were stored. Pure.

The order is that of the generations, which every write takes from a counter: a pass that only ever goes on to higher
ones sees no transition twice, whatever is overwritten meanwhile, and none is left out but those of overwritten chunks.
It ends with the chunk that was the newest when it began, so it ends however fast others insert.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from replay_service.table.types import ScanCursor
from upcycle.experience.chunks import Array

MAX_SLOTS: Final = 256
"""Slots looked at by one call: it holds the table's lock, and those that ask for what is missing may find little."""


def next_items(
    generation: Array, next_slot: int, cursor: ScanCursor, limit: int, wanted: Callable[[Array], Array]
) -> tuple[Array, Array, ScanCursor, bool]:
    """The next transitions of a pass.

    Args:
      generation: int64 [S], by slot; ascending from `next_slot` on around the ring, 0 is an empty slot.
      limit: transitions at the most, above 0.
      wanted: given slots, int64 [K], says which of their steps the pass is after, bool [K, steps].
    Returns: slots and offsets, int64 [M]; the cursor to go on with; and whether the pass has ended. M is below `limit`
      only at the end or after `MAX_SLOTS` slots.
    """
    ring = np.roll(np.arange(len(generation)), -next_slot)
    in_order = generation[ring]
    last = cursor.last_generation or int(in_order[-1])
    begin = int(np.searchsorted(in_order, max(cursor.generation, 1)))
    end = int(np.searchsorted(in_order, last, side="right"))
    upto = min(end, begin + MAX_SLOTS)
    slots = ring[begin:upto]
    found = wanted(slots)
    if len(slots) and int(generation[slots[0]]) == cursor.generation:
        found[0, : cursor.offset] = False
    rows, offsets = np.nonzero(found)
    if len(rows) > limit:
        following = ScanCursor(int(generation[slots[rows[limit]]]), int(offsets[limit]), last)
        return slots[rows[:limit]], offsets[:limit], following, False
    following = ScanCursor(int(in_order[upto - 1]) + 1 if upto > begin else cursor.generation, 0, last)
    return slots[rows], offsets, following, upto >= end
