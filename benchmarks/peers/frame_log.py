"""The workload as the adapters see it. Imports NumPy alone: it runs in the environments of other systems.

Every adapter is `python -m benchmarks.peers.adapters.NAME PLAY STORED VARIANT`, a `benchmarks.workers.Worker`. Its
first line is `facts_line`; it answers "insert", "sample/B" and "update/B".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

STACK: Final = 4
N_STEP: Final = 3
GAMMA: Final = 0.99
PRIORITY_EXPONENT: Final = 0.6
IMPORTANCE_EXPONENT: Final = 0.4
BATCH_SIZES: Final = (256, 512)
UPDATE_BATCHES: Final = 8
"""Batches of keys that updates go round: repeating one batch flatters trees that skip what has not changed."""
SMALL_SHARE: Final = 5
"""Memory is the difference between a full table and one that had room for this part of it, as for our own shards."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class FrameLog:
    """One lane's play: frame uint8 [T, 84, 84]; the others [T]. `reward` and `terminated` follow the row's action."""

    frame: Array
    action: Array
    reward: Array
    terminated: Array
    priority: Array
    n_step_return: Array
    discount: Array

    def __len__(self) -> int:
        return len(self.action)

    @classmethod
    def load(cls, folder: Path) -> "FrameLog":
        """What `benchmarks.workload.Play.save` wrote."""
        columns = {name: np.load(folder / f"{name}.npy") for name in ("frame", "action", "reward", "terminated")}
        # There a reward stands in the row that it came back with; the action it is for is in the row before.
        for name in ("reward", "terminated"):
            columns[name] = np.append(columns[name][1:], np.zeros(1, columns[name].dtype))
        rng = np.random.default_rng(2026)
        priority = np.exp(rng.normal(-2.0, 1.0, len(columns["action"])))
        value, discount = n_step_returns(columns["reward"], columns["terminated"])
        return cls(**columns, priority=priority, n_step_return=value, discount=discount)


def stacks(frame: Array, *, channels_last: bool = False) -> Array:
    """The stack that ends at each row from `STACK - 1` on, contiguous, as environments hand it over.

    Returns: uint8 [T - STACK + 1, STACK, 84, 84], or with the stack as the last axis.
    """
    views = np.lib.stride_tricks.sliding_window_view(frame, STACK, axis=0)  # [.., 84, 84, STACK]
    return np.ascontiguousarray(views if channels_last else np.moveaxis(views, -1, 1))


def n_step_returns(reward: Array, terminated: Array) -> tuple[Array, Array]:
    """Return, with clipped rewards, and discount of the transition that starts at each row, float32 [T].

    Computed once, before anything is timed: a caller's arithmetic is no cost of a replay system.
    """
    value, discount = np.zeros(len(reward)), np.full(len(reward), GAMMA**N_STEP)
    alive = np.ones(len(reward), bool)
    for k in range(N_STEP):
        # Rows past the end repeat the last one; adapters start no transition there.
        row = np.minimum(np.arange(len(reward)) + k, len(reward) - 1)
        value += alive * GAMMA**k * np.clip(reward[row], -1, 1)
        alive &= ~terminated[row]
    discount[~alive] = 0
    return value.astype(np.float32), discount.astype(np.float32)


def arguments(values: Sequence[str]) -> tuple[FrameLog, int, str]:
    """The play, how many transitions to store, and the variant, from the command line."""
    folder, stored, variant = values
    return FrameLog.load(Path(folder)), int(stored), variant


def versions(*packages: str) -> str:
    """Name and version of installed packages, in one line."""
    from importlib.metadata import version

    return ", ".join(f"{package} {version(package)}" for package in packages)


def facts_line(
    *,
    versions: str,
    note: str,
    bytes_per_item: float | None,
    operations: Sequence[str],
    counted_bytes: float | None = None,
) -> dict[str, Any]:
    """The first line of an adapter. Raises TypeError if a value is no JSON.

    Args:
      bytes_per_item: by the memory of the process; None where that cannot tell.
      counted_bytes: by the system's own account, where it keeps one.
    """
    facts = {
        "versions": versions,
        "note": note,
        "bytes_per_item": bytes_per_item,
        "counted_bytes": counted_bytes,
        "operations": list(operations),
    }
    json.dumps(facts)
    return facts
