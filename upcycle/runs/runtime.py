"""What every process of a run needs before its work begins: logs, a stop signal, a seed, a steady heap."""

import ctypes
import hashlib
import sys
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import structlog

from upcycle.experience import kernels
from upcycle.url_secrets import masked

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_open_log: TextIO | None = None


class Stop(Protocol):
    """Whatever can ask a loop to end."""

    def is_set(self) -> bool:
        """True once the loop shall end."""
        ...


OnProgress = Callable[[int, int], None]
"""Called with what is done and what is to be done."""


@dataclass(frozen=True, slots=True)
class Games:
    """How far an evaluation is.

    Attributes:
      ended: whole games that count and have ended.
      of: games to be played.
      env_frames: environment frames played so far.
      mean_return: raw, of the games that have ended; None before the first. No score yet: short games end first.
    """

    ended: int
    of: int
    env_frames: int = 0
    mean_return: float | None = None

    @property
    def count(self) -> str:
        """In words: games ended, of how many, and the frames that show that play goes on."""
        return f"{self.ended} of {self.of} games ({self.env_frames:,} frames)"

    @property
    def mean(self) -> str:
        """The mean so far, in words."""
        return "not known yet" if self.mean_return is None else f"{self.mean_return:.1f}"


OnGames = Callable[[Games], None]
"""Called now and then while games are played, and whenever one of them ends."""


class StopSignal(threading.Event):
    """Asks the loops of one process to end: `set()` once, then `is_set()` and `wait(timeout)` tell everyone.

    Attributes:
      signalled_at: when a signal asked for it first, on the monotonic clock; None if none did.
    """

    signalled_at: float | None = None


def configure_logging(role: str, run: str, index: int = 0, *, file: Path | None) -> None:
    """Makes `structlog.get_logger()` write JSON lines that name the process.

    Each line is written at once, with the passwords of URLs masked. A second call replaces the first and closes its
    file. A process whose kernels are the plain ones says so in its first line.

    Args:
      file: where to append, its folder is made; None writes to standard error.
    """
    global _open_log
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    stream = sys.stderr if file is None else file.open("a", encoding="utf-8", buffering=1)

    def name_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"role": role, "run": run, "index": index, **event}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            name_process,
            structlog.processors.JSONRenderer(default=str),
            lambda _, __, line: masked(str(line)),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    if _open_log is not None:
        _open_log.close()
    _open_log = None if file is None else stream
    if not kernels.native:
        structlog.get_logger(__name__).warning("plain_kernels", reason=kernels.why_plain)


def close_logging() -> None:
    """Closes the log file, if there is one, and goes back to structlog's defaults."""
    global _open_log
    structlog.reset_defaults()
    if _open_log is not None:
        _open_log.close()
    _open_log = None


def seed_for(seed: int, role: str, index: int) -> int:
    """The seed of one process, in [0, 2**31): the same for the same arguments, unrelated between processes."""
    digest = hashlib.sha256(f"{seed}/{role}/{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF


def keep_heap() -> bool:
    """Tells glibc to keep freed memory instead of handing it back after every message.

    Processes that move large messages call it first: otherwise each received megabyte costs about 500 page faults.
    One arena is part of it: with several, the threshold makes each thread hold a heap of its own.

    Returns: False where the C library has no such switch; nothing is changed then.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1))
    return all([mallopt(option, value) == 1 for option, value in settings])
