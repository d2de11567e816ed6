"""Zip archives as PyTorch and Stable-Baselines3 write them, read strictly and within limits.

Python's `zipfile` is not used: it takes in a directory of any length before it can be asked how many entries there are,
of two entries of one name it gives the last, and its entries may lie over one another, which makes bombs. Here the
directory is read whole or not at all, and nothing of an entry is decompressed beyond the size that it states. Comments,
several disks, encryption, and compression other than deflate are refused, and so are sizes of 64 bits, which lie beyond
`MAX_WEIGHT_BYTES`. Source: PKWARE's APPNOTE 6.3.10.
"""

import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final

from teacher_store.importers.readers.source_files import MAX_WEIGHT_BYTES
from upcycle.errors import CorruptDataError

LOCAL_MAGIC: Final = b"PK\x03\x04"
"""How an archive begins that has an entry."""
_END: Final = struct.Struct("<4s4H2LH")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MAX_ENTRIES: Final = 4_096
_MAX_DIRECTORY_BYTES: Final = 1 << 20
_MAX_RATIO: Final = 1_100
"""Deflate makes at most 1,032 bytes of one."""
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_UTF8: Final = 0x800
_STORED: Final = 0
_DEFLATED: Final = 8
_NAME_PART: Final = re.compile(r"[^\\:\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    raw_name: bytes
    method: int
    checksum: int
    compressed: int
    size: int
    offset: int


class StoredZip:
    """An archive; its directory is checked when it is opened, an entry when it is read.

    Args:
      file: stays open as long as entries are read.
      where: names the file in errors.
    Raises: CorruptDataError, as does `read`, if the archive is damaged or hostile.
    """

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self._size = file.seek(0, os.SEEK_END)
        try:
            self._entries = self._directory()
        except (struct.error, UnicodeDecodeError) as error:
            raise self._refused(f"its directory is damaged ({error})") from error

    def names(self) -> list[str]:
        """Of the entries, as they lie in the directory."""
        return list(self._entries)

    def size(self, name: str) -> int:
        """Bytes of an entry, decompressed."""
        return self._entry(name).size

    def read(self, name: str, *, limit: int = MAX_WEIGHT_BYTES) -> bytes:
        """All of an entry, its checksum compared. Raises: CorruptDataError if it has more than `limit` bytes too."""
        entry = self._entry(name)
        if entry.size > limit:
            raise self._refused(f"{name} has {entry.size:,} bytes, over {limit:,}")
        self._file.seek(self._data_offset(entry))
        data = self._exactly(entry.compressed)
        if entry.method == _DEFLATED:
            data = self._inflated(data, entry)
        if len(data) != entry.size or zlib.crc32(data) != entry.checksum:
            raise self._refused(f"{name} is damaged: its size or checksum is wrong")
        return data

    def _inflated(self, data: bytes, entry: _Entry) -> bytes:
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            result = stream.decompress(data, entry.size + 1)
        except zlib.error as error:
            raise self._refused(f"{entry.name} is damaged ({error})") from error
        if not stream.eof or stream.unused_data:
            raise self._refused(f"{entry.name} decompresses to another size than {entry.size:,} bytes")
        return result

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise self._refused(f"it has no {name}")
        return self._entries[name]

    def _directory(self) -> dict[str, _Entry]:
        at = self._size - _END.size
        if at < 0:
            raise self._refused("it is too short")
        self._file.seek(at)
        magic, disk, first_disk, on_disk, count, length, offset, comment = _END.unpack(self._exactly(_END.size))
        if magic != b"PK\x05\x06" or comment:
            raise self._refused("it does not end as an archive does (cut short, or with a comment)")
        if disk or first_disk or on_disk != count:
            raise self._refused("it is in several parts")
        if count > _MAX_ENTRIES or length > _MAX_DIRECTORY_BYTES or offset + length > at:
            raise self._refused(f"a directory of {count:,} entries and {length:,} bytes at {offset:,}")
        self._file.seek(offset)
        entries = self._parsed(self._exactly(length), count)
        self._check_places(list(entries.values()), end=offset)
        return entries

    def _parsed(self, directory: bytes, count: int) -> dict[str, _Entry]:
        entries, at = dict[str, _Entry](), 0
        for _ in range(count):
            fields = _ENTRY.unpack_from(directory, at)
            magic, _, _, flags, method, _, _, checksum, compressed, size = fields[:10]
            name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
            name_at = at + _ENTRY.size
            at = name_at + name_length + extra_length + comment_length
            raw = directory[name_at : name_at + name_length]
            if magic != b"PK\x01\x02" or at > len(directory) or disk:
                raise self._refused("its directory is damaged")
            entry = _Entry(self._name(raw, flags), raw, method, checksum, compressed, size, offset)
            self._check(entry, flags, attributes)
            if entry.name in entries:
                raise self._refused(f"it has two entries {entry.name}")
            entries[entry.name] = entry
        if at != len(directory):
            raise self._refused("its directory is damaged")
        return entries

    def _name(self, raw: bytes, flags: int) -> str:
        """A path that stays below where it would be unpacked; PyTorch names its folder after the file."""
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        parts = name.split("/")
        if not all(_NAME_PART.fullmatch(part) for part in parts) or {".", ".."} & set(parts):
            raise self._refused(f"the name {name[:100]!r} of an entry")
        return name

    def _check(self, entry: _Entry, flags: int, attributes: int) -> None:
        if flags & _ENCRYPTED:
            raise self._refused(f"{entry.name} is encrypted")
        if entry.method not in (_STORED, _DEFLATED):
            raise self._refused(f"{entry.name} is compressed by method {entry.method}, not by deflate")
        if stat.S_ISLNK(attributes >> 16):
            raise self._refused(f"{entry.name} is a symbolic link")
        if entry.size > entry.compressed * (_MAX_RATIO if entry.method == _DEFLATED else 1):
            raise self._refused(f"{entry.name} states {entry.size:,} bytes out of {entry.compressed:,} (a bomb?)")

    def _check_places(self, entries: list[_Entry], *, end: int) -> None:
        total = sum(entry.size for entry in entries)
        if total > MAX_WEIGHT_BYTES:
            raise self._refused(f"decompresses to {total:,} bytes (a decompression bomb?)")
        in_order = sorted(entries, key=lambda entry: entry.offset)
        ends = [*[entry.offset for entry in in_order[1:]], end]
        for entry, following in zip(in_order, ends, strict=False):  # of no entries there is an end all the same
            if entry.offset + _LOCAL.size + len(entry.raw_name) + entry.compressed > following:
                raise self._refused(f"{entry.name} reaches into what comes after it (a bomb?)")

    def _data_offset(self, entry: _Entry) -> int:
        self._file.seek(entry.offset)
        fields = _LOCAL.unpack(self._exactly(_LOCAL.size))
        magic, name_length, extra_length = fields[0], fields[9], fields[10]
        if magic != LOCAL_MAGIC or self._exactly(name_length) != entry.raw_name:
            raise self._refused(f"{entry.name} is not where the directory says")
        start = entry.offset + _LOCAL.size + name_length + extra_length
        following = [other.offset for other in self._entries.values() if other.offset > entry.offset]
        if start + entry.compressed > min([*following, self._size]):
            raise self._refused(f"{entry.name} reaches into what comes after it (a bomb?)")
        return start

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._refused("it is cut short")
        return data

    def _refused(self, problem: str) -> CorruptDataError:
        return CorruptDataError(f"{self._where}: refused archive: {problem}")
