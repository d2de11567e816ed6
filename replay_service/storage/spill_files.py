"""Bytes that do not fit in memory: in files that have no name, so that nothing is left of them after kill -9."""

import os
import struct
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zlib_ng import zlib_ng

from upcycle.errors import CorruptDataError
from upcycle.files import disk_full_explained, write_all

DEFAULT_FILE_BYTES: Final = 64 << 20
_CRC: Final = struct.Struct("<I")  # after each entry


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie: number of the file, first byte, number of bytes."""

    file: int
    begin: int
    size: int


class SpillFiles:
    """Appends bytes to files, each of which goes when all that it holds has been released.

    What is written first should be released first, else one entry keeps its file. All files go with this object.

    Args:
      folder: whose file system is used; made if it is not there.
      file_bytes: a file that has grown so large is followed by a new one.
    """

    def __init__(self, folder: Path, *, file_bytes: int = DEFAULT_FILE_BYTES) -> None:
        with disk_full_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._file_bytes = folder, file_bytes
        self._files = dict[int, tuple[int, int]]()  # by number: descriptor, and entries that are still wanted
        weakref.finalize(self, _close_all, self._files)
        self._newest, self._end = -1, file_bytes

    @property
    def num_files(self) -> int:
        """Files that take space on disk."""
        return len(self._files)

    def append(self, data: bytes) -> Place:
        """Writes bytes. Raises: UserError if the disk is full; nothing has changed then."""
        with disk_full_explained(self._folder):
            if self._end >= self._file_bytes:
                descriptor, path = tempfile.mkstemp(dir=self._folder)
                os.unlink(path)  # the file lives as long as it is open
                self._newest, self._end = self._newest + 1, 0
                self._files[self._newest] = descriptor, 0
                self._drop(self._newest - 1)
            descriptor, num_wanted = self._files[self._newest]
            write_all(descriptor, data + _CRC.pack(zlib_ng.crc32(data)), offset=self._end)
        place = Place(self._newest, self._end, len(data))
        self._files[self._newest] = descriptor, num_wanted + 1
        self._end += len(data) + _CRC.size
        return place

    def read(self, place: Place) -> bytes:
        """The bytes of a place that has not been released. Raises: CorruptDataError if they have changed."""
        data = os.pread(self._files[place.file][0], place.size + _CRC.size, place.begin)
        if len(data) != place.size + _CRC.size:
            raise CorruptDataError(f"{self._folder}: a file has lost its end")
        blob = data[: place.size]
        if _CRC.unpack_from(data, place.size)[0] != zlib_ng.crc32(blob):
            raise CorruptDataError(f"{self._folder}: bytes of a file have changed")
        return blob

    def release(self, place: Place) -> None:
        """Gives up what lies in a place."""
        descriptor, num_wanted = self._files[place.file]
        self._files[place.file] = descriptor, num_wanted - 1
        self._drop(place.file)

    def _drop(self, number: int) -> None:
        """Closes a file that nobody wants anything of and that is full."""
        if number != self._newest and number in self._files and self._files[number][1] == 0:
            os.close(self._files.pop(number)[0])


def _close_all(files: dict[int, tuple[int, int]]) -> None:
    for descriptor, _ in files.values():
        os.close(descriptor)
