"""What a person sees while a verb about finished work counts something or plays games."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from upcycle.runs.runtime import Games

_LINE_SECONDS: Final = 10.0


class Bars(Protocol):
    """Shows what is done of what is to be done."""

    def count(self, done: int, total: int) -> None:
        """Of whatever `show_bars` was told that is counted."""
        ...

    def games(self, played: Games) -> None:
        """Of games, with the mean so far."""
        ...


class LineBars:
    """A line every ten seconds, for logs and pipes."""

    def __init__(self, unit: str, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._unit, self._write, self._clock = unit, write, clock
        self._due = clock() + _LINE_SECONDS  # who is done before needs no line

    def count(self, done: int, total: int) -> None:
        """See `Bars`."""
        self._show(f"{done:,} of {total:,} {self._unit}")

    def games(self, played: Games) -> None:
        """See `Bars`."""
        self._show(f"{played.count}, mean so far {played.mean}")

    def _show(self, line: str) -> None:
        if self._clock() >= self._due:
            self._due = self._clock() + _LINE_SECONDS
            self._write(line)


class _TerminalBars:
    def __init__(self, unit: str, bar: Progress) -> None:
        self._unit, self._bar = unit, bar
        self._tasks: dict[str, TaskID] = {}

    def count(self, done: int, total: int) -> None:
        self._update(self._unit, done, total, "")

    def games(self, played: Games) -> None:
        self._update("games", played.ended, played.of, f"{played.env_frames:,} frames, mean so far {played.mean}")

    def _update(self, unit: str, done: int, total: int, note: str) -> None:
        if unit not in self._tasks:
            self._tasks[unit] = self._bar.add_task(unit, total=total, note=note)
        self._bar.update(self._tasks[unit], completed=done, total=total, note=note)


class _NoBars:
    def count(self, done: int, total: int) -> None:
        pass

    def games(self, played: Games) -> None:
        pass


@contextmanager
def show_bars(unit: str = "", *, show: bool) -> Generator[Bars]:
    """Bars on standard error: drawn on a terminal, lines elsewhere, nothing where `show` is false.

    Args:
      unit: what `Bars.count` counts.
    """
    console = Console(stderr=True)
    if not show:
        yield _NoBars()
    elif not console.is_terminal:
        yield LineBars(unit, lambda line: print(line, file=sys.stderr, flush=True))
    else:
        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), note, TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            yield _TerminalBars(unit, bar)
