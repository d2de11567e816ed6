"""NumPy arrays inside gzip files (`numpy.save` into `gzip.open`) or others, read from their start in bounded memory.

Nothing of NumPy's own reader is used: it would take memory for whatever shape a header states, and its headers are
Python expressions. See "A simple file format for NumPy arrays", NumPy Enhancement Proposal 1.
"""

import io
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

import numpy as np
from zlib_ng import gzip_ng, zlib_ng

from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER_BYTES: Final = 4096
_HEADER: Final = re.compile(
    rb"\{'descr': '([<>|]?[biuf][1248])', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,12}, ?)*\d{0,12})\), \} *\n?"
)
_MAX_AXES: Final = 8
_DAMAGED: Final = cast(type[Exception], zlib_ng.error)
_DISCARD_BYTES: Final = 1 << 17  # what is thrown away need not leave the cache of a core


class StoredArray:
    """One array of a file, from its first element to its last; every method raises CorruptDataError naming the file.

    Attributes:
      dtype: of the file.
      shape: of the array.
    """

    def __init__(self, file: io.BufferedIOBase, where: str) -> None:
        self._file, self._where = file, where
        self.dtype, self.shape = self._header()
        self._left = math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, out: Array) -> None:
        """Fills a C-contiguous array of this dtype with the next elements."""
        view = out.reshape(-1).view(np.uint8).data
        if len(view) > self._left:
            raise CorruptDataError(f"{self._where}: holds fewer elements than another file of the same buffer")
        self._left -= len(view)
        self._fill(view)

    def skip(self, num_bytes: int) -> None:
        """Leaves out the next bytes."""
        scratch = np.empty(min(num_bytes, _DISCARD_BYTES), np.uint8)
        while num_bytes:
            part = scratch[: min(num_bytes, _DISCARD_BYTES)]
            self.read_into(part)
            num_bytes -= len(part)

    def finish(self) -> None:
        """Reads what is left, so that the file's checksum is compared, and makes sure that nothing follows."""
        self.skip(self._left)
        if self._read(1):
            raise CorruptDataError(f"{self._where}: more bytes than an array of shape {self.shape} has")

    def read_all(self) -> Array:
        """The whole array, in the machine's byte order."""
        out = np.empty(self.shape, self.dtype)
        self.read_into(out)
        self.finish()
        return out.astype(self.dtype.newbyteorder("="), copy=False)

    def _header(self) -> tuple["np.dtype[Any]", tuple[int, ...]]:
        magic = self._exactly(8)
        if magic[:6] != _MAGIC or magic[6] not in (1, 2, 3):
            raise CorruptDataError(f"{self._where}: no NumPy array")
        length = int.from_bytes(self._exactly(2 if magic[6] == 1 else 4), "little")
        if length > _MAX_HEADER_BYTES:
            raise CorruptDataError(f"{self._where}: a header of {length:,} bytes")
        header = self._exactly(length)
        found = _HEADER.fullmatch(header)
        if found is None:
            raise CorruptDataError(f"{self._where}: an array of another kind: {header[:200]!r}")
        shape = tuple(int(axis) for axis in found[3].replace(b" ", b"").split(b",") if axis)
        if len(shape) > _MAX_AXES or (found[2] == b"True" and len(shape) > 1):
            raise CorruptDataError(f"{self._where}: an array of shape {shape} in Fortran's order, or of too many axes")
        try:
            return np.dtype(found[1].decode()), shape
        except TypeError as error:
            raise CorruptDataError(f"{self._where}: an array of dtype {found[1]!r}") from error

    def _exactly(self, count: int) -> bytes:
        out = bytearray(count)
        self._fill(memoryview(out))
        return bytes(out)

    def _fill(self, view: memoryview) -> None:
        try:
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise CorruptDataError(f"{self._where}: cut off")
                view = view[count:]
        except (OSError, EOFError, _DAMAGED) as error:
            raise CorruptDataError(f"{self._where}: damaged data ({error})") from error

    def _read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, _DAMAGED) as error:
            raise CorruptDataError(f"{self._where}: damaged data ({error})") from error


@contextmanager
def open_array(source: SourceFiles, name: str) -> Generator[StoredArray]:
    """The array of a gzip file. Raises: CorruptDataError if there is none."""
    with source.open(name) as compressed, gzip_ng.GzipFile(fileobj=compressed) as file:
        yield StoredArray(file, str(source.locate(name)))
