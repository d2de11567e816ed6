"""What another framework has computed for some observations: the file that an import can be compared with."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from teacher_store.importers.source import Source
from upcycle.chunks import Array
from upcycle.errors import CorruptDataError

_MAX_BYTES: Final = 1 << 30


def read_reference(path: Path) -> tuple[Array, Array, str]:
    """Reads an .npz file of `observations` and their `q_values`.

    Returns: observations, uint8 [B, stack, H, W] or float32 [B, 1, D]; values, float32 [B, A]; the file's SHA-256.
    Raises: CorruptDataError if the file holds anything else, or more than 1 GiB.
    """
    source = Source(path)
    data = source.read(limit=_MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise CorruptDataError(f"{path}: decompresses to {size:,} bytes; refused")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            observations, values = arrays["observations"], arrays["q_values"]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CorruptDataError(f"{path}: is no .npz file with `observations` and `q_values` ({error})") from error
    if observations.dtype not in (np.uint8, np.float32) or values.ndim != 2 or len(values) != len(observations):
        found = f"{observations.dtype} {observations.shape} and {values.dtype} {values.shape}"
        raise CorruptDataError(f"{path}: holds {found}, not observations (uint8 or float32) and values [B, A] of each")
    if not len(values) or not np.isfinite(values).all():
        raise CorruptDataError(f"{path}: `q_values` are empty or not finite")
    return observations, values.astype(np.float32), source.sha256("")
