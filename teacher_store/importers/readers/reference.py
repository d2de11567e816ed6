"""What another framework has computed for some observations: the file that an import can be compared with."""

import io
import math
from pathlib import Path
from typing import Final

import numpy as np

from teacher_store.importers.readers.gzip_arrays import StoredArray
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.readers.stored_zip import StoredZip
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_MAX_BYTES: Final = 1 << 30


def read_reference(path: Path) -> tuple[Array, Array, str]:
    """Reads an .npz file of `observations` and their `q_values`.

    Returns: observations, uint8 [B, stack, H, W] or float32 [B, 1, D]; values, float32 [B, A]; the file's SHA-256.
    Raises: CorruptDataError if the file holds anything else, or an array of more than 1 GiB.
    """
    source = SourceFiles(path)
    with source.open() as file:
        archive = StoredZip(file, str(path))
        observations, values = _array(archive, "observations", path), _array(archive, "q_values", path)
    wrong = str(observations.dtype) not in ("uint8", "float32") or values.dtype.kind != "f" or values.ndim != 2
    if wrong or observations.shape[:1] != values.shape[:1]:
        found = f"{observations.dtype} {observations.shape} and {values.dtype} {values.shape}"
        raise CorruptDataError(f"{path}: holds {found}, not observations (uint8 or float32) and values [B, A] of each")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        values = values.astype(np.float32)
    if not len(values) or not np.isfinite(values).all():
        raise CorruptDataError(f"{path}: `q_values` are empty or not finite")
    return observations, values, source.sha256("")


def _array(archive: StoredZip, name: str, path: Path) -> Array:
    where = f"{path}: {name}"
    data = archive.read(f"{name}.npy", limit=_MAX_BYTES)
    array = StoredArray(io.BytesIO(data), where)
    if math.prod(array.shape) * array.dtype.itemsize > len(data):  # before so much is allocated
        raise CorruptDataError(f"{where}: an array of shape {array.shape} in {len(data):,} bytes")
    return array.read_all()
