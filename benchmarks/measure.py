"""Rates and costs of calls, over short windows. Imports NumPy alone: the environments of other systems run it too."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_DISTURBED_CORES: Final = 0.2
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Rate:
    """What one window did.

    Attributes:
      items: transitions moved.
      seconds: wall time.
      client_seconds: CPU time of this process, all threads.
      server_seconds: CPU time of the server processes, all threads; 0 where there is none.
      parts: items by client, where there are several.
    """

    items: int
    seconds: float
    client_seconds: float
    server_seconds: float
    parts: Sequence[int] = ()

    @property
    def items_per_s(self) -> float:
        """Items by wall time."""
        return self.items / self.seconds

    @property
    def client_us(self) -> float:
        """CPU microseconds of this process per item."""
        return 1e6 * self.client_seconds / max(self.items, 1)

    @property
    def server_us(self) -> float:
        """CPU microseconds of the servers per item."""
        return 1e6 * self.server_seconds / max(self.items, 1)

    def to_json(self) -> dict[str, Any]:
        """Its fields; `Rate(**fields)` makes it again."""
        return asdict(self)


_Name = TypeVar("_Name", bound=Hashable)

Window = Callable[[float], Rate]
"""Works for so many seconds and says what it did."""


def timed(
    *steps: Callable[[], int],
    seconds: float,
    servers: Sequence[int] = (),
    finish: Callable[[], object] | None = None,
) -> Rate:
    """Repeats `steps`, each of which returns the items it moved, until the time is over; each at least once.

    Several steps run side by side, a thread for each.

    Args:
      servers: process ids whose CPU time counts as the servers'.
      finish: waits for whatever the steps have begun; that time counts.
    """
    server, own, start = sum(map(cpu_seconds, servers)), own_cpu_seconds(), time.perf_counter()

    def repeat(step: Callable[[], int]) -> int:
        items = step()
        while time.perf_counter() - start < seconds:
            items += step()
        return items

    if len(steps) == 1:
        parts = [repeat(steps[0])]
    else:
        with ThreadPoolExecutor(len(steps), thread_name_prefix="bench") as threads:
            parts = list(threads.map(repeat, steps))
    if finish is not None:
        finish()
    elapsed = time.perf_counter() - start
    return Rate(sum(parts), elapsed, own_cpu_seconds() - own, sum(map(cpu_seconds, servers)) - server, parts)


def interleaved(windows: Mapping[_Name, Window], *, rounds: int, seconds: float) -> dict[_Name, list[Rate]]:
    """Runs all windows in turn, so that whatever else the machine does in that time meets all of them alike."""
    rates: dict[_Name, list[Rate]] = {name: [] for name in windows}
    for _ in range(rounds):
        for name, window in windows.items():
            rates[name].append(window(seconds))
    return rates


def median(values: Iterable[float]) -> float:
    """The median, NaN of nothing."""
    known = list(values)
    return statistics.median(known) if known else float("nan")


def own_cpu_seconds() -> float:
    """CPU time of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all threads. Raises FileNotFoundError if there is none."""
    # The second field is the command in brackets and may hold anything; the others follow the last bracket.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(after_name[11]), int(after_name[12])
    return (user + system) / _TICKS


def machine_cpu_seconds() -> float:
    """CPU time of all processes of the machine so far."""
    values = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    idle, waiting = values[3], values[4]
    return (sum(values) - idle - waiting) / _TICKS


class Disturbance:
    """How much of the machine others take, from its making on. Ours are this process and its children."""

    def __init__(self) -> None:
        self._start, self._machine, self._ours = time.monotonic(), machine_cpu_seconds(), _family_cpu_seconds()

    def cores(self) -> float:
        """Cores that others kept busy on average. Call it when all children have ended; till then they are others."""
        others = machine_cpu_seconds() - self._machine - (_family_cpu_seconds() - self._ours)
        return max(others / (time.monotonic() - self._start), 0.0)


def is_disturbed(cores: float) -> bool:
    """Whether others that keep so many cores busy make rates worthless."""
    return cores > _DISTURBED_CORES


def _family_cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own_cpu_seconds() + ended.ru_utime + ended.ru_stime


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM, shared segments included. Raises FileNotFoundError if there is none."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def private_bytes(pid: int) -> int:
    """Memory in RAM that is neither shared nor of a file (an arena is both). Raises FileNotFoundError if none such."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
