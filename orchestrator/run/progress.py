"""What a person sees of a run: a live panel on a terminal, or a plain line every ten seconds."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.reports.summary import format_seconds
from upcycle.config.run import RunConfig
from upcycle.runs.runtime import Games

_LINE_SECONDS: Final = 10.0
_RATE_WINDOW_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
      phase: "scoring" (a baseline plays for its score), "collecting" (the teacher plays for a buffer), "starting", a
        phase's name, "evaluation" or "done".
      fraction: how much of the phase is done, in [0, 1], by its largest budget.
      seconds_left: of this phase at the pace of the last half minute; None while unknown.
      env_frames, learner_steps: totals of the run.
      env_frames_per_s, learner_steps_per_s: over the last half minute.
      mean_return: of the newest evaluation, or None; `normalised`: with random at 0 and the teacher at 1.
      teacher_return: the score to reach; None in a run from scratch.
      multiplier: distillation multiplier in force.
      restarts: processes started again so far.
      detail: what is being played, where games are played; "" elsewhere.
      warning: what somebody should see to soon.
      standstill: why the run, or a part of it, makes no progress, as of `orchestrator.run.standstill`; None if it does.
      games: how far they are; then `fraction` is of them, and no phase of training goes on.
      waiting_for: processes that have yet to come up, or what they have no place for; None if there are none.
    """

    phase: str
    fraction: float = 0.0
    seconds_left: float | None = None
    env_frames: int = 0
    learner_steps: int = 0
    env_frames_per_s: float = 0.0
    learner_steps_per_s: float = 0.0
    mean_return: float | None = None
    normalised: float | None = None
    teacher_return: float | None = None
    multiplier: float = 0.0
    restarts: int = 0
    detail: str = ""
    games: Games | None = None
    warning: str | None = None
    standstill: dict[str, Any] | None = None
    waiting_for: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def phase_fraction(config: RunConfig, status: Mapping[str, Any]) -> float:
    """How much of its current phase the learner has done; `status` as of `Learner.status`."""
    phase = status.get("phase")
    if phase == "offline":
        return min(1.0, status["phase_learner_steps"] / config.offline.learner_steps)
    if phase in ("online", "rl"):
        budget = config.online.env_frames if phase == "online" else config.rl.env_frames
        return min(1.0, status["phase_env_frames"] / budget)
    return 1.0 if phase == "done" else 0.0


class Pace:
    """Rates and the time left, over a sliding window. Pure: `now` is passed in."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, str, float, int, int]] = deque()

    def update(
        self, phase: str, fraction: float, frames: int, steps: int, *, now: float
    ) -> tuple[float | None, float, float]:
        """Adds a point; returns (seconds left of the phase or None, frames per second, learner steps per second)."""
        while self._points and (self._points[0][1] != phase or now - self._points[0][0] > _RATE_WINDOW_SECONDS):
            self._points.popleft()
        self._points.append((now, phase, fraction, frames, steps))
        then, _, old_fraction, old_frames, old_steps = self._points[0]
        seconds = now - then
        if seconds <= 0:
            return None, 0.0, 0.0
        pace = (fraction - old_fraction) / seconds
        left = (1.0 - fraction) / pace if pace > 0 else None
        return left, (frames - old_frames) / seconds, (steps - old_steps) / seconds


class View(Protocol):
    """Shows a run while it goes on; a context manager."""

    def show(self, progress: Progress) -> None:
        """Shows the newest state; may be called as often as one likes."""
        ...

    def say(self, line: str) -> None:
        """Shows an event, once, for good."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class LineView:
    """Plain lines, for logs and pipes: events at once, progress every ten seconds, at each new phase and standstill."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._due = float("-inf")
        self._shown = ("", False)

    def show(self, progress: Progress) -> None:
        """Writes a line if it is time, and another one if the run waits."""
        stands = progress.standstill is not None
        if self._clock() >= self._due or (progress.phase, stands) != self._shown:
            self._due, self._shown = self._clock() + _LINE_SECONDS, (progress.phase, stands)
            self._write(format_line(progress))
            if progress.standstill is not None:
                self._write(f"waiting: {progress.standstill['line']}")

    def say(self, line: str) -> None:
        """Writes the line."""
        self._write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class TerminalView:
    """A panel that is redrawn in place, with the events above it."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def show(self, progress: Progress) -> None:
        """Redraws the panel."""
        self._live.update(_panel(self._name, progress))

    def say(self, line: str) -> None:
        """Prints the line above the panel."""
        self._console.print(line, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class SilentView:
    """Nothing: for `--json`, whose one object comes at the end."""

    def show(self, progress: Progress) -> None:
        """Shows nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def make_view(name: str, *, json: bool) -> View:
    """The view that suits where standard error goes; standard output is left for results."""
    if json:
        return SilentView()
    console = Console(stderr=True)
    if console.is_terminal:
        return TerminalView(name, console)
    return LineView(lambda line: print(line, file=sys.stderr, flush=True))


def format_line(progress: Progress) -> str:
    """One line, the same words in the same order every time."""
    if progress.games is not None:
        against = "" if progress.teacher_return is None else f" (teacher {progress.teacher_return:.1f})"
        played = f"{progress.games.count}, mean so far {progress.games.mean}{against}"
        return f"{progress.phase} {progress.fraction:.0%} | {progress.detail}: {played}"
    parts = [
        f"{progress.phase} {progress.fraction:.0%}",
        f"{progress.env_frames:,} frames ({progress.env_frames_per_s:,.0f}/s)",
        f"{progress.learner_steps:,} updates ({progress.learner_steps_per_s:,.0f}/s)",
        f"return {_return(progress)}",
    ]
    if progress.teacher_return is not None:
        parts.append(f"teacher's weight {progress.multiplier:.2f}")
    if progress.restarts:
        parts.append(f"{progress.restarts} restarts")
    if progress.warning is not None:
        parts.append(f"warning: {progress.warning}")
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left in this phase")
    if progress.waiting_for is not None and progress.standstill is None:
        parts.append(f"waiting for {progress.waiting_for}")
    return " | ".join(parts)


def _return(progress: Progress) -> str:
    text = "not known yet" if progress.mean_return is None else f"{progress.mean_return:.1f}"
    return text if progress.teacher_return is None else f"{text} (teacher {progress.teacher_return:.1f})"


def _panel(name: str, progress: Progress) -> Group:
    table = Table.grid(padding=(0, 2))
    rows = _rows(progress) if progress.games is None else _rows_of_games(progress, progress.games)
    for label, value in rows.items():
        table.add_row(Text(label, style="dim"), Text(value))
    title = Text.assemble((name, "bold"), "  ", (progress.phase, "bold cyan"), f"  {progress.fraction:.0%}")
    bar = Table.grid()  # a bar alone does not end its line
    bar.add_row(ProgressBar(total=1.0, completed=progress.fraction, width=48))
    return Group(title, bar, table)


def _rows(progress: Progress) -> dict[str, str]:
    rows = {
        "frames": f"{progress.env_frames:,}  ({progress.env_frames_per_s:,.0f}/s)",
        "updates": f"{progress.learner_steps:,}  ({progress.learner_steps_per_s:,.0f}/s)",
        "return": _return(progress),
    }
    if progress.teacher_return is not None:
        rows["teacher's weight"] = f"{progress.multiplier:.2f}"
    if progress.restarts:
        rows["restarts"] = str(progress.restarts)
    if progress.warning is not None:
        rows["warning"] = progress.warning
    if progress.standstill is not None:
        rows["waiting"] = progress.standstill["line"]
    elif progress.waiting_for is not None:
        rows["waiting"] = f"for {progress.waiting_for}"
    return rows | {"left in this phase": format_seconds(progress.seconds_left)}


def _rows_of_games(progress: Progress, games: Games) -> dict[str, str]:
    rows = {"playing": progress.detail, "games": games.count, "mean so far": games.mean}
    if progress.teacher_return is not None:
        rows["teacher"] = f"{progress.teacher_return:.1f}"
    return rows
