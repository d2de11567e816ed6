"""What the chunks of a table hold, for people: which policies acted in them, and some windows. Pure."""

import numpy as np

from replay_service.wire.inspection_messages import ShownWindows
from replay_service.storage.packed_storage import Storage
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View


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
