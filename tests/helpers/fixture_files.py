"""Files that other frameworks wrote, from `fixtures/`, as those frameworks left them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.paths import FIXTURES


def unzip(fixture: str, folder: Path) -> Path:
    """Every file of the fixture, decompressed, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (FIXTURES / fixture).glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder


def reference(fixture: str) -> dict[str, Any]:
    """Observations, and the values that the framework computed for them."""
    with np.load(FIXTURES / fixture / "reference.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}
