"""Agents of Dopamine's JAX names, made by hand, for the tests of what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from teacher_store.importers.formats import dopamine_jax
from teacher_store.importers.imported import ImportedAgent, Request
from teacher_store.importers.readers.source_files import SourceFiles

Params = dict[str, Any]
Change = Callable[[Params], object]
CHANNELS = (4, 8, 8)


def layer(*shape: int) -> Params:
    rng = np.random.default_rng(0)
    return {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.zeros(shape[-1], np.float32)}


def nature(outputs: int = 4, flat: int = 121 * 8, hidden: int = 16) -> Params:
    """A nature network of Dopamine's names, for frames of 84x84."""
    first, second, third = CHANNELS
    convolutions = {
        "Conv_0": layer(8, 8, 4, first),
        "Conv_1": layer(4, 4, first, second),
        "Conv_2": layer(3, 3, second, third),
    }
    return convolutions | {"Dense_0": layer(flat, hidden), "Dense_1": layer(hidden, outputs)}


def read_bundle(folder: Path, bundle: Any) -> ImportedAgent | None:
    """Through NumPy's own pickles, which older JAX wrote too."""
    return read_bytes(folder, bundle if isinstance(bundle, bytes) else pickle.dumps(bundle, protocol=4))


def read_bytes(folder: Path, data: bytes) -> ImportedAgent | None:
    path = folder / "ckpt.7"
    path.write_bytes(data)
    assert dopamine_jax.IMPORTER.read_agent is not None
    return dopamine_jax.IMPORTER.read_agent(SourceFiles(path), Request())


def read_params(folder: Path, params: Any) -> ImportedAgent | None:
    return read_bundle(folder, {"online_params": params})
