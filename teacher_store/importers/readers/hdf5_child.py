"""The program that reads the HDF5 file of a Minari dataset, in a process of its own: `hdf5_process` starts it.

libhdf5 is C, and a hostile file may crash it, or send it round in circles: here that ends a process that holds nothing.
Imports no module of ours. Its one argument is JSON (see `main`); on standard output come, without any framing, since
both sides know all sizes:

    a line of JSON {"episodes": E} | int64 [E], the steps of each episode | from episode `first` on, block by block:
    observations | actions, int64 | rewards, float64 | terminations, uint8 | truncations, uint8

An episode of T steps has T + 1 observations; a block is `block_rows` of them, and what belongs to its steps. What is
refused comes as one line on standard error, with exit code `REFUSED`.
"""

import io
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import h5py as untyped_h5py
import numpy as np

h5py: Any = untyped_h5py  # its stubs know little
REFUSED: Final = 3
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_FILTERS: Final = frozenset({_DEFLATE, _SHUFFLE, _FLETCHER32})
_MOST_DEFLATED: Final = 1100  # deflate makes no more of a byte than 1,032
_SMALL_BYTES: Final = 1 << 20
_MAX_CHUNK_BYTES: Final = 32 << 20
_MAX_STEPS: Final = 10_000_000
_MAX_EPISODES: Final = 1_000_000
_COLUMNS: Final = {"actions": "iu", "rewards": "iuf", "terminations": "biu", "truncations": "biu"}
"""Beside the observations, with the kinds of their dtypes."""
_SENT: Final = {"actions": np.int64, "rewards": np.float64}


class Refusal(Exception):
    """What is wrong with the file."""


def episode_of(file: Any, number: int) -> Any:
    """The group of an episode."""
    name = f"episode_{number}"
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise Refusal(f"{name} is not there, or a link; refused")
    group = file[name]
    if not isinstance(group, h5py.Group):
        raise Refusal(f"{name} is no group")
    return group


def dataset_of(group: Any, name: str) -> Any:
    """A dataset whose bytes lie in this file, behind known filters, and are about as many as it needs."""
    where = f"{group.name}/{name}"
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refusal(f"{where} is not there, or a link; refused")
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise Refusal(f"{where} is no array (observations of several parts?)")
    if found.is_virtual or found.external:
        raise Refusal(f"{where} lies in other files; refused")
    plist = found.id.get_create_plist()
    filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    if not filters <= _FILTERS:
        raise Refusal(f"{where} is behind filters {sorted(filters)}; known are gzip, shuffle and fletcher32")
    if found.chunks is not None and math.prod(found.chunks) * found.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise Refusal(f"{where} has chunks of {found.chunks}; refused")
    size, stored = math.prod(found.shape) * found.dtype.itemsize, int(found.id.get_storage_size())
    if size > _MOST_DEFLATED * stored and (size > _SMALL_BYTES or not stored):
        raise Refusal(f"{where}: {size:,} bytes of which {stored:,} are there (a decompression bomb?); refused")
    return found


class Episode:
    """The datasets of one episode, of the shapes and dtypes that belong there."""

    def __init__(self, group: Any, layout: dict[str, Any]) -> None:
        self._jpeg, self._shape, self._dtype = layout["jpeg"], tuple(layout["shape"]), np.dtype(layout["dtype"])
        self._observations = dataset_of(group, "observations")
        self._columns = {name: dataset_of(group, name) for name in _COLUMNS}
        rewards = self._columns["rewards"]
        self.steps = int(rewards.shape[0]) if rewards.shape else 0
        if not 1 <= self.steps <= _MAX_STEPS:
            raise Refusal(f"{group.name}: {self.steps:,} steps")
        for name, column in self._columns.items():
            if column.shape != (self.steps,) or column.dtype.kind not in _COLUMNS[name]:
                raise Refusal(f"{column.name}: {column.dtype} {column.shape} beside rewards of {rewards.shape}")
        found = self._observations
        if self._jpeg:
            vector = h5py.check_vlen_dtype(found.dtype)
            fits = found.shape == (self.steps + 1,) and vector == np.uint8
            fits = fits or (found.shape[:1] == (self.steps + 1,) and found.ndim == 2 and found.dtype == np.uint8)
        else:
            fits = found.shape == (self.steps + 1, *self._shape)
            fits = fits and (found.dtype == np.uint8 if self._dtype == np.uint8 else found.dtype.kind == "f")
        if not fits:
            wanted = f"{self.steps + 1} of {self._shape}"
            raise Refusal(f"{found.name}: {found.dtype} {found.shape}, where {wanted} belong")

    def blocks(self, block_rows: int) -> Iterator[bytes]:
        """All that there is to send of it."""
        for start in range(0, self.steps + 1, block_rows):
            stop = min(start + block_rows, self.steps + 1)
            rows = self._observations[start:stop]
            if self._jpeg:
                rows = np.stack([self._decoded(bytes(row)) for row in rows])
            yield np.ascontiguousarray(rows.astype(self._dtype, copy=False)).tobytes()
            for name, column in self._columns.items():
                values = column[start : min(stop, self.steps)]
                sent = values.astype(_SENT[name]) if name in _SENT else (values.astype(np.int64) != 0).astype(np.uint8)
                yield sent.tobytes()

    def _decoded(self, data: bytes) -> "np.ndarray[Any, Any]":
        from PIL import Image

        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if (image.height, image.width) != self._shape or image.mode != "L":
            raise Refusal(f"{self._observations.name}: a {image.mode} picture of {image.height}x{image.width}")
        return np.asarray(image)


def send(file: Any, layout: dict[str, Any], out: BinaryIO) -> None:
    """Writes everything; see the module."""
    count = sum(name.startswith("episode_") for name in file)
    if not 1 <= count <= _MAX_EPISODES:
        raise Refusal(f"{count:,} episodes")
    out.write(json.dumps({"episodes": count}).encode() + b"\n")
    for number in range(count):
        out.write(np.int64(Episode(episode_of(file, number), layout).steps).tobytes())
    out.flush()
    for number in range(layout["first"], count):
        for part in Episode(episode_of(file, number), layout).blocks(layout["block_rows"]):
            out.write(part)
    out.flush()


def main() -> int:
    """Takes {"file": descriptor, "memory": bytes at most, "jpeg", "shape", "dtype", "first", "block_rows"}."""
    layout = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (layout["memory"], layout["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with os.fdopen(layout["file"], "rb") as raw, h5py.File(raw, "r", rdcc_nbytes=2 * _MAX_CHUNK_BYTES) as file:
            send(file, layout, sys.stdout.buffer)
    except BrokenPipeError:  # nobody wants the rest
        os._exit(0)
    except Exception as error:  # whatever h5py and Pillow make of a damaged file
        told = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        print(told.replace("\n", " ")[:400], file=sys.stderr, flush=True)
        os._exit(REFUSED)  # at once: closing what is half open has crashed libhdf5
    return 0


if __name__ == "__main__":
    sys.exit(main())
