"""The comparison as text and as a picture. Pure but for reading the machine's name."""

import io
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.measure import Rate, is_disturbed, median

_BEGIN: Final = "<!-- bench-peers: begin, written by python -m benchmarks.peers -->"
_END: Final = "<!-- bench-peers: end -->"
_OURS, _OTHERS = "#1d4ed8", "#94a3b8"
_METHOD: Final = """\
All systems of a game run in turn, window by window; the figures are medians. A cell is transitions per second, then
CPU microseconds a transition of client + server. "insert" begins with steps that exist and ends with their
acknowledgement; "act" with an actor's rows, which ours cut into chunks first (the others' writers take rows as they
come). Memory is bytes a transition. RSS: the difference between processes with a full table and with room for a fifth
(for buffers inside the client: before and after filling); the heap of a process moves it by up to some hundred bytes,
more than a cold table takes, which has no such figure therefore. Counted: by the table itself. Buffers in the client's
process keep freed memory between batches, as our processes do: they are up to three times as fast with it. Reverb has
malloc's defaults: it is faster with those."""


@dataclass(frozen=True, slots=True)
class Result:
    """One system on one game.

    Attributes:
      system: its name.
      ours: whether it is this repository's.
      facts: the first line of its adapter.
      rates: by operation, a rate of each round.
    """

    system: str
    ours: bool
    facts: Mapping[str, Any]
    rates: Mapping[str, Sequence[Rate]]

    def speed(self, operation: str) -> float | None:
        """Median items per second; None if it has no such operation."""
        rates = self.rates.get(operation)
        return median(rate.items_per_s for rate in rates) if rates else None

    def costs(self, operation: str) -> tuple[float, float] | None:
        """Median CPU microseconds an item of client and server."""
        rates = self.rates.get(operation)
        if not rates:
            return None
        return median(rate.client_us for rate in rates), median(rate.server_us for rate in rates)


def table(results: Sequence[Result], operations: Sequence[str]) -> str:
    """A markdown table: a row for each system, speed and costs of each operation, memory."""
    head = ["system", *operations, "memory (RSS)", "memory (counted)"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for result in results:
        name = f"**{result.system}**" if result.ours else result.system
        cells = [_cell(result, operation) for operation in operations]
        memory = [_bytes(result.facts.get(key)) for key in ("bytes_per_item", "counted_bytes")]
        lines.append(f"| {' | '.join([name, *cells, *memory])} |")
    return "\n".join(lines)


def section(text: str, body: str) -> str:
    """`text` with its comparison replaced by `body`; put at the end if there is none yet.

    Guarantee: everything outside the comparison stays, and the same body again changes nothing.
    Raises: ValueError if the marks of its beginning and end do not match.
    """
    block = f"{_BEGIN}\n\n{body.strip()}\n\n{_END}"
    if _BEGIN not in text and _END not in text:
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError("the marks around the comparison do not match: remove both and run again")
    return f"{before}{block}{after}"


def body(
    results: Mapping[str, Sequence[Result]],
    operations: Sequence[str],
    *,
    command: str,
    stored: int,
    other_cores: float,
    goals: str,
) -> str:
    """The whole comparison: how it was measured, a table for each game, `goals`, notes on each system."""
    notes = {result.system: result.facts for game in results.values() for result in game}
    verdict = ": **a disturbed run, whose rates say little.**" if is_disturbed(other_cores) else "."
    parts = [
        "## Against other replay systems",
        f"`{command}` on {machine()}.",
        f"{stored:,} transitions of random play stored (n = 3, stack 4, 84x84).\n{_METHOD}",
        f"While this ran, other processes kept {other_cores:.2f} cores busy{verdict}",
        *(f"### {game}\n\n{table(rows, operations)}" for game, rows in results.items()),
        f"### What was to be reached\n\n{goals}",
        "### What each system does here",
        "\n".join(f"- {name}: {facts['note']} ({facts['versions']})" for name, facts in notes.items()),
        "![Sampled transitions per second](replay.png)",
    ]
    return "\n\n".join(parts)


def figure(results: Mapping[str, Sequence[Result]], operation: str) -> bytes:
    """PNG: bars of one operation, a panel for each game, the fastest system on top."""
    picture = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = picture.subplots(1, len(results), squeeze=False)[0]
    for axes, (game, rows) in zip(panels, results.items(), strict=True):
        known = [(speed, row) for row in rows if (speed := row.speed(operation)) is not None]
        known.sort(key=lambda pair: pair[0])
        names = [row.system for _, row in known]
        colours = [_OURS if row.ours else _OTHERS for _, row in known]
        bars = axes.barh(names, [speed for speed, _ in known], color=colours)
        axes.bar_label(bars, [f"{speed / 1000:,.1f}k" for speed, _ in known], padding=3, fontsize=8)
        axes.set_title(game)
        axes.set_xlabel(f"transitions per second, {operation}")
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    data = io.BytesIO()
    FigureCanvasAgg(picture).print_png(data, metadata={"Software": None})
    return data.getvalue()


def machine() -> str:
    """This machine in a few words."""
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _cell(result: Result, operation: str) -> str:
    speed, costs = result.speed(operation), result.costs(operation)
    if speed is None or costs is None:
        return "–"
    digits = 1 if sum(costs) >= 10 else 2
    return f"{speed:,.0f} ({costs[0]:.{digits}f} + {costs[1]:.{digits}f})"


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
