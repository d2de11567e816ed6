"""Memory that a shard fills and clients of the same user on the same host read, with no name to leave behind.

A segment is a `memfd`: shared memory that the kernel frees with the last process that maps it, also after kill -9, and
that no size of /dev/shm limits. A reader opens it through the owner's descriptor in /proc, which the kernel allows the
same user only. The random token at its beginning proves that it is the one meant: another host, container or later
process may have something else under the same numbers.
"""

import contextlib
import fcntl
import hmac
import mmap
import os
import platform
import secrets
import sys
from dataclasses import dataclass
from typing import Final

_NAME: Final = "upcycle-replay"
_TOKEN_BYTES: Final = 16
_HEADER_BYTES: Final = 64
_F_SEAL_FUTURE_WRITE: Final = 0x10  # linux/fcntl.h; Python has no name for it before 3.12


class SegmentUnreachable(Exception):
    """The segment cannot be mapped from here: another host, another user, a container between, or its owner is gone."""


@dataclass(frozen=True, slots=True)
class SegmentHandle:
    """What a reader needs to map a segment: the owner's process and descriptor, the token and the size in bytes."""

    pid: int
    descriptor: int
    token: bytes
    num_bytes: int


class SharedSegment:
    """Zeroed memory of `num_bytes`, writable here, readable elsewhere. The kernel removes it with its last user.

    Attributes:
      buffer: the memory.
      handle: what a reader needs.

    Raises: OSError if the kernel has no memory or no memfd.
    """

    def __init__(self, num_bytes: int) -> None:
        total = _HEADER_BYTES + num_bytes
        self._descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._descriptor, total)
            memory = mmap.mmap(self._descriptor, total)
            # A segment that never shrinks cannot kill its readers (SIGBUS); nobody else gets to write to it.
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            with contextlib.suppress(OSError):  # Linux before 5.1; only the same user could write there anyway
                fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        except BaseException:
            os.close(self._descriptor)
            raise
        token = secrets.token_bytes(_TOKEN_BYTES)
        memory[:_TOKEN_BYTES] = token
        self.buffer = memoryview(memory)[_HEADER_BYTES:]
        self.handle = SegmentHandle(os.getpid(), self._descriptor, token, num_bytes)

    def close(self) -> None:
        """Lets no further reader in; those that have mapped the segment keep it. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def can_share() -> bool:
    """Whether this system shares arenas at all.

    It takes Linux, and a processor that shows stores to others in the order in which they were made: the generation
    that a reader checks must not become visible before the rows that it stands for.
    """
    return sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64")


def map_segment(handle: SegmentHandle) -> memoryview:
    """The segment's memory, read-only. It stays until the last view of it is gone, whatever its owner does.

    Raises: SegmentUnreachable.
    """
    total = _HEADER_BYTES + handle.num_bytes
    path = f"/proc/{handle.pid}/fd/{handle.descriptor}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{_NAME}"):  # opening a pipe or a device is not harmless
            raise SegmentUnreachable("something else has taken its place")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentUnreachable(str(error)) from error
    try:
        if os.fstat(descriptor).st_size != total:
            raise SegmentUnreachable("another file has taken its place")
        memory = mmap.mmap(descriptor, total, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise SegmentUnreachable(str(error)) from error
    finally:
        os.close(descriptor)
    if not hmac.compare_digest(memory[:_TOKEN_BYTES], handle.token):
        raise SegmentUnreachable("another segment has taken its place")
    return memoryview(memory)[_HEADER_BYTES:]
