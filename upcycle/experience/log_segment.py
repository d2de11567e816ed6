"""Segments of the experience log: records, a verifying scan, and the index sidecar.

A segment is a file of records; the record of a chunk is

    magic 4 | version 2 | reserved 2 | sequence 8 | num_transitions 4 | chunk bytes 4 | payload bytes 4
    | crc32 of the payload 4 | crc32 of all of the above 4 | payload: one zstd frame with its content checksum

Every byte is covered by a checksum, and the sequence number exposes a record from another place in the log, so reading
returns the chunk that was appended there or raises `CorruptDataError` naming the file and the offset.

A *sealed* segment never changes again. Its index sidecar marks it as sealed and saves the scan; a missing or damaged
sidecar is rebuilt from the records.
"""

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from upcycle.errors import CorruptDataError
from upcycle.files import disk_full_explained, write_atomically

_MAGIC: Final = b"UPLR"
_VERSION: Final = 1
_FIELDS: Final = struct.Struct("<4sHHQIIII")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _FIELDS.size + _CRC.size
_MAX_CHUNK_BYTES: Final = 256 << 20

_INDEX_MAGIC: Final = b"UPLI"
_INDEX_FIELDS: Final = struct.Struct("<4sHHQQ")  # magic, version, reserved, first sequence, number of records


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The verified fields of one record; sizes in bytes, `chunk_bytes` uncompressed."""

    sequence: int
    num_transitions: int
    chunk_bytes: int
    payload_bytes: int
    payload_crc: int

    @property
    def record_bytes(self) -> int:
        """Bytes of the whole record."""
        return HEADER_BYTES + self.payload_bytes


@dataclass(frozen=True, slots=True)
class CompressedChunk:
    """An encoded chunk as stored in its record; `chunk_bytes` is its uncompressed size."""

    payload: bytes
    chunk_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Locations of the whole records of a segment.

    Attributes:
      path: the file.
      first_sequence: sequence number of its first record; the others follow without a gap.
      bounds: int64 [n + 1]; record i is the bytes bounds[i] .. bounds[i + 1].
      num_transitions: int64 [n].
      sealed: whether it is immutable, with a valid sidecar.
      torn_bytes: bytes after the last whole record, from an unfinished append.
    """

    path: Path
    first_sequence: int
    bounds: NDArray[np.int64]
    num_transitions: NDArray[np.int64]
    sealed: bool = False
    torn_bytes: int = 0

    @property
    def num_chunks(self) -> int:
        """Number of whole records."""
        return len(self.num_transitions)

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole records."""
        return int(self.bounds[-1])

    @property
    def index_path(self) -> Path:
        """Path of its sidecar, whether or not it exists."""
        return self.path.with_suffix(".index")


def segment_name(first_sequence: int) -> str:
    """File name of the segment that begins with this record; names sort by sequence number."""
    return f"segment-{first_sequence:012d}.log"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """First sequence number and path of each segment in a log, in order."""
    paths = sorted(path for path in directory.glob("segment-*.log") if path.stem[8:].isdigit())
    return [(int(path.stem[8:]), path) for path in paths]


def compress_chunk(data: bytes) -> CompressedChunk:
    """The expensive part of `encode_record`. It needs no sequence number, so several threads can run it at once."""
    return CompressedChunk(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data), len(data))


def encode_record(data: bytes | CompressedChunk, *, sequence: int, num_transitions: int) -> bytes:
    """The record of one encoded chunk."""
    chunk = compress_chunk(data) if isinstance(data, bytes) else data
    crc = zlib_ng.crc32(chunk.payload)
    fields = _FIELDS.pack(_MAGIC, _VERSION, 0, sequence, num_transitions, chunk.chunk_bytes, len(chunk.payload), crc)
    return b"".join((fields, _CRC.pack(zlib_ng.crc32(fields)), chunk.payload))


def decode_record(record: bytes | memoryview, *, sequence: int) -> bytes:
    """The encoded chunk in a record. Raises: CorruptDataError unless it is intact and has `sequence`."""
    header = _check_record(memoryview(record), sequence)
    if header.record_bytes != len(record):
        raise CorruptDataError(f"record of {header.record_bytes} bytes where the index has one of {len(record)}")
    try:
        payload = memoryview(record)[HEADER_BYTES:]
        # zstd allocates the size that the frame declares, whatever `max_output_size` is.
        if zstandard.frame_content_size(payload) != header.chunk_bytes or header.chunk_bytes > _MAX_CHUNK_BYTES:
            raise CorruptDataError(f"payload is to become other than {header.chunk_bytes} bytes, or too many")
        data = zstandard.ZstdDecompressor().decompress(payload, max_output_size=header.chunk_bytes)
    except zstandard.ZstdError as error:
        raise CorruptDataError(f"payload does not decompress ({error})") from error
    if len(data) != header.chunk_bytes:
        raise CorruptDataError(f"payload holds {len(data)} bytes instead of {header.chunk_bytes}")
    return data


def load_segment(path: Path, first_sequence: int, *, is_last: bool) -> Segment:
    """Locates the records of a segment by its sidecar, else by scanning every byte.

    Only the newest segment of a log (`is_last`), if not sealed, may end in the middle of a record.

    Raises: CorruptDataError naming file and offset.
    """
    size = path.stat().st_size
    indexed = _read_index(path, first_sequence)
    if indexed is not None:
        if indexed.num_bytes != size:
            raise CorruptDataError(f"{path} at byte {size}: it was sealed with {indexed.num_bytes} bytes")
        return indexed
    scanned = scan_segment(path, first_sequence)
    if scanned.torn_bytes and not is_last:
        raise CorruptDataError(f"{path} at byte {scanned.num_bytes}: damaged record in the middle of the log")
    return scanned


def scan_segment(path: Path, first_sequence: int) -> Segment:
    """Reads every record's headers and checksums; what follows the last whole record is `torn_bytes`.

    Raises: CorruptDataError if whole records follow a damaged one: that is damage, not an append cut short.
    """
    data = memoryview(path.read_bytes())
    bounds, counts = [0], list[int]()
    problem: CorruptDataError | None = None
    while bounds[-1] < len(data) and problem is None:
        try:
            header = _check_record(data[bounds[-1] :], first_sequence + len(counts))
        except CorruptDataError as error:
            problem = error
        else:
            bounds.append(bounds[-1] + header.record_bytes)
            counts.append(header.num_transitions)
    if problem is not None and _has_later_record(data, bounds[-1] + 1, first_sequence + len(counts)):
        raise CorruptDataError(f"{path} at byte {bounds[-1]}: {problem}; whole records follow it") from problem
    torn_bytes = len(data) - bounds[-1]
    return Segment(path, first_sequence, np.array(bounds, np.int64), np.array(counts, np.int64), torn_bytes=torn_bytes)


def write_index(segment: Segment) -> Segment:
    """Writes the sidecar, atomically, and returns the segment as sealed: it must never change from now on."""
    fields = _INDEX_FIELDS.pack(_INDEX_MAGIC, _VERSION, 0, segment.first_sequence, segment.num_chunks)
    body = b"".join((fields, segment.bounds.tobytes(), segment.num_transitions.tobytes()))
    write_atomically(segment.index_path, body + _CRC.pack(zlib_ng.crc32(body)))
    return replace(segment, sealed=True, torn_bytes=0)


def force_segment(descriptor: int, segment: Segment) -> None:
    """Forces a full segment to disk, then its sidecar, which says that it will never change."""
    with disk_full_explained(segment.path):
        os.fsync(descriptor)
        write_index(segment)


def recover_segment(segment: Segment) -> Segment | None:
    """Removes a torn tail and seals what is left; an empty segment goes altogether."""
    if segment.sealed:
        return segment
    if segment.num_chunks == 0:
        segment.path.unlink()
        return None
    with disk_full_explained(segment.path):
        os.truncate(segment.path, segment.num_bytes)
        return write_index(segment)


def _read_index(path: Path, first_sequence: int) -> Segment | None:
    """The segment as its sidecar describes it, or None if there is no valid sidecar."""
    try:
        data = path.with_suffix(".index").read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _INDEX_FIELDS.size + _CRC.size or _CRC.pack(zlib_ng.crc32(data[: -_CRC.size])) != data[-_CRC.size :]:
        return None
    magic, version, _, first, count = _INDEX_FIELDS.unpack_from(data)
    numbers = np.frombuffer(data[_INDEX_FIELDS.size : -_CRC.size], np.int64)
    if (magic, version, first) != (_INDEX_MAGIC, _VERSION, first_sequence) or len(numbers) != 2 * count + 1:
        return None
    return Segment(path, first_sequence, numbers[: count + 1], numbers[count + 1 :], sealed=True)


def _check_record(data: memoryview, sequence: int) -> RecordHeader:
    """Verifies the record that starts at data[0], without decompressing it."""
    header = _parse_header(data)
    if header.sequence != sequence:
        raise CorruptDataError(f"record number {header.sequence} where {sequence} belongs")
    if header.record_bytes > len(data):
        raise CorruptDataError(f"record of {header.record_bytes} bytes is cut off after {len(data)}")
    if zlib_ng.crc32(data[HEADER_BYTES : header.record_bytes]) != header.payload_crc:
        raise CorruptDataError("payload fails its checksum")
    return header


def _parse_header(data: memoryview) -> RecordHeader:
    if len(data) < HEADER_BYTES:
        raise CorruptDataError(f"record is cut off after {len(data)} bytes")
    magic, version, _, *rest = _FIELDS.unpack_from(data)
    if magic != _MAGIC or _CRC.unpack_from(data, _FIELDS.size)[0] != zlib_ng.crc32(data[: _FIELDS.size]):
        raise CorruptDataError("record header fails its checksum")
    if version != _VERSION:
        raise CorruptDataError(f"record version {version}; this build reads version {_VERSION}")
    return RecordHeader(*rest)


def _has_later_record(data: memoryview, start: int, after_sequence: int) -> bool:
    """Whether a whole record with a number above `after_sequence` starts at byte `start` or later."""
    everything = bytes(data)
    position = everything.find(_MAGIC, start)
    while position >= 0:
        try:
            header = _parse_header(data[position:])
            if header.sequence > after_sequence and _check_record(data[position:], header.sequence):
                return True
        except CorruptDataError:
            pass  # the magic's four bytes inside a payload, or a record that is damaged too
        position = everything.find(_MAGIC, position + 1)
    return False
