"""The folder of an experience log: description, writer lock, parts, and sharing by hard links."""

import errno
import fcntl
import itertools
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from pydantic import ValidationError
from zlib_ng import zlib_ng

from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.log_segment import Segment, list_segments, load_segment, write_index
from upcycle.files import disk_full_explained, write_atomically

_FORMAT: Final = "upcycle-experience-log"
_VERSION: Final = 1
_DESCRIPTION: Final = "log.json"
_LOCK: Final = "writer.lock"


@dataclass(frozen=True, slots=True)
class LinkReport:
    """Result of `link_log`: bytes of records shared with the source, and bytes copied."""

    linked_bytes: int
    copied_bytes: int


def lock_for_writing(directory: Path) -> int:
    """Locks a log for writing until the returned descriptor is closed or the process dies.

    Raises: UserError if another process holds the lock.
    """
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError("experience log", str(directory), "has a writer already", "stop that run first") from error
    return descriptor


def describe_log(directory: Path, spec: ChunkSpec, env: EnvConfig) -> None:
    """Writes `log.json`, or checks that the existing one agrees. Raises: UserError if it does not."""
    if not (directory / _DESCRIPTION).exists():
        if list_segments(directory):
            raise CorruptDataError(f"{directory / _DESCRIPTION}: is missing beside its segments")
        values = {"format": _FORMAT, "version": _VERSION, "spec": spec.to_json(), "env": env.model_dump(mode="json")}
        write_atomically(directory / _DESCRIPTION, json.dumps(values | {"crc32": _crc(values)}, indent=1).encode())
    found = read_description(directory)
    for name, there, here in (("chunks", found[0], spec), ("environment", found[1], env)):
        if there != here:
            problem = f"holds other {name}: {there} instead of {here}"
            raise UserError(
                "experience log", str(directory), problem, "use another folder, or the configuration of that log"
            )


def read_description(directory: Path) -> tuple[ChunkSpec, EnvConfig]:
    """The chunk specification and environment of a log. Raises: CorruptDataError."""
    path = directory / _DESCRIPTION
    try:
        values = cast(dict[str, Any], json.loads(path.read_bytes()))
        if values["format"] != _FORMAT or values["version"] != _VERSION:
            found = f"{values['format']} version {values['version']}"
            raise CorruptDataError(f"{path}: is a {found}; this build reads {_FORMAT} version {_VERSION}")
        if values.pop("crc32") != _crc(values):
            raise CorruptDataError(f"{path}: fails its checksum")
        return ChunkSpec.from_json(values["spec"]), EnvConfig.model_validate(values["env"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorruptDataError(f"{path}: unreadable ({str(error).splitlines()[0]})") from error


def _crc(values: dict[str, Any]) -> int:
    """Checksum of the values, independent of the file's layout."""
    return zlib_ng.crc32(json.dumps(values, sort_keys=True).encode())


def log_parts(directory: Path) -> list[Path]:
    """The log itself, or the logs in its sub-folders. Raises: UserError if there is none."""
    if (directory / _DESCRIPTION).is_file():
        return [directory]
    parts = sorted(path.parent for path in directory.glob(f"*/{_DESCRIPTION}"))
    if not parts:
        raise UserError("experience log", str(directory), "there is no log here", "point at a run's experience/ folder")
    return parts


def load_segments(directory: Path) -> list[Segment]:
    """The segments of one log, in order.

    A writer seals a segment while it fills the next one. If a power cut has torn the first, nothing of the second was
    forced to disk, so all of it counts as torn: a log has no gaps. Segments that are trimmed meanwhile are left out.
    Raises: CorruptDataError naming file and offset, also when a segment is missing.
    """
    segments = _load_listed(directory)
    if len(segments) > 1 and not (segments[-2].sealed or segments[-1].sealed):
        torn, last = segments[-2:]
        next_sequence, size = torn.first_sequence + torn.num_chunks, last.path.stat().st_size
        if torn.torn_bytes or last.first_sequence != next_sequence:
            bounds, counts = np.zeros(1, np.int64), np.zeros(0, np.int64)
            segments[-1] = Segment(last.path, next_sequence, bounds, counts, torn_bytes=size)
    for before, after in itertools.pairwise(segments):
        expected = before.first_sequence + before.num_chunks
        if after.first_sequence != expected:
            raise CorruptDataError(f"{after.path} at byte 0: record {expected} is missing before it")
    return segments


def _load_listed(directory: Path) -> list[Segment]:
    while listed := list_segments(directory):
        segments = list[Segment]()
        with suppress(FileNotFoundError):  # trimmed since it was listed, as were all before it
            for first, path in reversed(listed):
                is_last = not segments or (len(segments) == 1 and not segments[0].sealed)
                segments.insert(0, load_segment(path, first, is_last=is_last))
        if segments:
            return segments
    return []


def link_log(source: Path, target: Path) -> LinkReport:
    """Makes `target` a log with the chunks of `source` (a log or a folder of logs), sharing its sealed segments.

    On one file system no sealed segment's bytes move (hard links); between two they are copied. The whole records of
    an open segment are copied, since its owner may still append. Segments that the owner trims meanwhile are left out,
    so that `target` has no gap.

    Raises: UserError if the disk is full; CorruptDataError if `source` is damaged; FileExistsError if `target` exists.
    """
    linked = copied = 0
    for part in log_parts(source):
        place = target if part == source else target / part.name
        place.mkdir(parents=True)
        report = _share_segments(part, place)
        linked, copied = linked + report.linked_bytes, copied + report.copied_bytes
        write_atomically(place / _DESCRIPTION, (part / _DESCRIPTION).read_bytes())
    return LinkReport(linked, copied)


def _share_segments(part: Path, place: Path) -> LinkReport:
    """Shares the segments of one log, from the oldest to the newest, into an empty folder."""
    while True:
        shared, linked, copied = list[Segment](), 0, 0
        segments = [segment for segment in load_segments(part) if segment.num_chunks > 0]
        for segment in segments:
            moved = replace(segment, path=place / segment.path.name)
            try:
                if segment.sealed and _link(segment.path, moved.path):
                    linked += segment.num_bytes
                else:
                    with segment.path.open("rb") as file:
                        write_atomically(moved.path, file.read(segment.num_bytes))
                    copied += segment.num_bytes
            except FileNotFoundError:  # trimmed, as were all before it: sharing restarts after it
                for older in shared:
                    older.index_path.unlink()
                    older.path.unlink()
                shared, linked, copied = [], 0, 0
            else:
                shared.append(write_index(moved))
        if shared or not segments:
            return LinkReport(linked, copied)


def share_file(source: Path, target: Path) -> None:
    """Hard-links an immutable file; copies it where hard links are impossible."""
    if not _link(source, target):
        write_atomically(target, source.read_bytes())


def _link(source: Path, target: Path) -> bool:
    """Makes a hard link; returns False where that is impossible."""
    with disk_full_explained(target):
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            return False
    return True
