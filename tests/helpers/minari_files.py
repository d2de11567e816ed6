"""Datasets that Minari itself wrote, from `fixtures/minari`, and spoilt copies of them."""

import json
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py as untyped_h5py
import numpy as np

from teacher_store.importers.formats.minari import IMPORTER
from teacher_store.importers.imported import ImportedExperience, Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.paths import FIXTURES
from upcycle.experience.chunks import Array

h5py: Any = untyped_h5py
MINARI = FIXTURES / "minari"
DATA, METADATA = "data/main_data.hdf5", "data/metadata.json"


def unpack(name: str, folder: Path) -> Path:
    """The dataset as Minari left it."""
    with zipfile.ZipFile(MINARI / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


def reference(name: str) -> list[dict[str, Array]]:
    """What Minari reads of each episode."""
    with np.load(MINARI / f"{name}.npz") as arrays:
        values = {key: arrays[key] for key in arrays.files}
    count = 1 + max(int(key.split("/")[0]) for key in values)
    return [{key.split("/")[1]: values[key] for key in values if key.startswith(f"{i}/")} for i in range(count)]


def read(folder: Path, *, accept_lossy: bool = False) -> ImportedExperience:
    assert IMPORTER.read_experience is not None
    return IMPORTER.read_experience(SourceFiles(folder), Request(accept_lossy=accept_lossy))


@contextmanager
def changed(folder: Path) -> Generator[Any]:
    """The HDF5 file, open for spoiling."""
    with h5py.File(folder / DATA, "r+") as file:
        yield file


def replace(file: Any, name: str, data: Any, **options: Any) -> None:
    """Puts another array in the place of one."""
    del file[name]
    file.create_dataset(name, data=data, **options)


def change_metadata(folder: Path, **changes: Any) -> None:
    """Replaces values of the metadata; None leaves one out."""
    path = folder / METADATA
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
