"""Replay logs that a test makes up or spoils: the same bytes that Dopamine's `save` gives, without Dopamine."""

import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from upcycle.experience.chunks import Array


def npy_bytes(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def write_replay(folder: Path, *, checkpoint: int = 1, **changes: Any) -> Path:
    """A buffer of 12 rows that was filled exactly once; `changes` replaces columns, None leaves the file out.

    A column is an array, or the bytes that are compressed into its file.
    """
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "observation": rng.integers(1, 256, (12, 5, 4), np.uint8),
        "action": rng.integers(4, size=12).astype(np.int32),
        "reward": np.ones(12, np.float32),
        "terminal": (np.arange(12) == 11).astype(np.uint8),
        "add_count": np.array(12),
        "episode_end_indices": pickle.dumps({np.int64(11)}),
        "invalid_range": np.arange(5),
    }
    columns["observation"][:3], columns["action"][:3], columns["reward"][:3] = 0, 0, 0
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (columns | changes).items():
        stored = f"$store$_{name}" if name in ("observation", "action", "reward", "terminal") else name
        if value is not None:
            data = value if isinstance(value, bytes) else npy_bytes(value)
            (folder / f"{stored}_ckpt.{checkpoint}.gz").write_bytes(gzip.compress(data))
    return folder
