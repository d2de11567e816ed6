"""How long a stretch of a run took to start and to end, step by step: `upcycle run --timings`, and in `summary.json`.

The driver times its own steps; each process says in its answers when it came how far (`upcycle.runs.moments`).
"""

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypedDict

_DIGITS: Final = 3
MOMENTS: Final = (
    "asked",
    "up",
    "imports",
    "built",
    "first_answer",
    "first_weights",
    "first_chunk",
    "first_step",
    "last_step",
)
"""What a process passes, in this order: asked for by the driver; running; its modules imported; its loop built; its
first answer to the driver; weights to act with; a chunk handed on; a gradient step; the newest gradient step."""


class Step(TypedDict):
    """A step of the driver, in seconds since the command began."""

    step: str
    began: float
    ended: float


class TimingsRecord(TypedDict):
    """What `summary.json` keeps; all in seconds since the command began.

    Keys:
      steps: of the driver, in the order of their beginning; steps of one stretch may lie within one another.
      processes: moments of each process by its name, see `MOMENTS`; of one that was started again, its first ones.
      first_step, last_step: the first and the last gradient step of the stretch; null if there was none.
    """

    steps: list[Step]
    processes: dict[str, dict[str, float]]
    first_step: float | None
    last_step: float | None


class Timings:
    """Of one stretch. `began` is when the command began, Unix seconds; by default when this process did."""

    def __init__(self, began: float | None = None) -> None:
        self._began = process_began() if began is None else began
        self._steps: list[tuple[str, float, float]] = []
        self._processes: dict[str, dict[str, float]] = {}

    def begins_with(self, name: str) -> None:
        """The step that has filled the time since the command began ends now."""
        self._steps.append((name, self._began, time.time()))

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Times a step, also one that fails."""
        began = time.time()
        try:
            yield
        finally:
            self._steps.append((name, began, time.time()))

    def note(self, process: str, moments: Mapping[str, float]) -> None:
        """Takes over what is known of a process: of each moment the first time, and the newest of `last_step`."""
        known = self._processes.setdefault(process, {})
        for name, at in moments.items():
            if name == "last_step":
                known[name] = at
            else:
                known.setdefault(name, at)

    def first_time(self, process: str, moment: str) -> None:
        """A process passes a moment now, unless it has passed it before."""
        self.note(process, {moment: time.time()})

    def to_json(self) -> TimingsRecord:
        """What is known now."""
        processes = {
            name: {moment: self._since(known[moment]) for moment in MOMENTS if moment in known}
            for name, known in sorted(self._processes.items())
        }
        firsts = [known["first_step"] for known in processes.values() if "first_step" in known]
        lasts = [known["last_step"] for known in processes.values() if "last_step" in known]
        return {
            "steps": [
                {"step": name, "began": self._since(began), "ended": self._since(ended)}
                for name, began, ended in sorted(self._steps, key=lambda step: step[1])
            ],
            "processes": processes,
            "first_step": min(firsts, default=None),
            "last_step": max(lasts, default=None),
        }

    def _since(self, at: float) -> float:
        return round(at - self._began, _DIGITS)


def process_began() -> float:
    """When this process began, Unix seconds, to a hundredth; now, where the system does not say."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - up + int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def timings_table(record: TimingsRecord) -> list[str]:
    """Lines for people: the driver's steps, then the moments of each process."""
    lines = [f"{'step':<28}{'from':>8}{'to':>8}{'seconds':>9}"]
    for step in record["steps"]:
        seconds = step["ended"] - step["began"]
        lines.append(f"{step['step']:<28}{step['began']:>8.2f}{step['ended']:>8.2f}{seconds:>9.2f}")
    shown = [moment for moment in MOMENTS if any(moment in known for known in record["processes"].values())]
    if shown:
        lines += ["", f"{'process':<14}" + "".join(f"{moment.replace('_', ' '):>14}" for moment in shown)]
    for name, known in record["processes"].items():
        cells = [f"{known[moment]:>14.2f}" if moment in known else f"{'-':>14}" for moment in shown]
        lines.append(f"{name:<14}" + "".join(cells))
    return lines
