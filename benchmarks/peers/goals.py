"""What replay is meant to reach against other systems, and what it does: computed from the same run. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.report import Result


@dataclass(frozen=True, slots=True)
class Goal:
    """One comparison.

    Attributes:
      system: ours.
      operation: "insert", or "sample" or "update" of whichever batch size is fastest; the other's likewise.
      others: how the names of those compared with begin; the fastest of them counts. Empty: an absolute figure.
      factor: times theirs, or items per second; by game, where it differs, else the first.
    """

    system: str
    operation: str
    others: str
    factor: float
    by_game: Mapping[str, float]

    def of(self, game: str) -> float:
        """What is to be reached on this game."""
        return self.by_game.get(game, self.factor)


GOALS: Final = (
    Goal("Upcycle, shared memory", "sample", "Reverb", 8, {}),
    Goal("Upcycle, shared memory", "sample", "cpprb", 1, {}),
    Goal("Upcycle, TCP", "sample", "Reverb", 3, {"MsPacman": 2}),
    Goal("Upcycle, warm", "sample", "Reverb", 1, {}),
    Goal("Upcycle, cold", "sample", "Reverb", 0.3, {}),
    Goal("Upcycle, shared memory", "insert", "Reverb", 9, {}),
    Goal("Upcycle, shared memory", "update", "Reverb", 1, {}),
    Goal("Upcycle, shared memory", "update", "", 1_000_000, {}),
)


def table(results: Mapping[str, Sequence[Result]], goals: Sequence[Goal] = GOALS) -> str:
    """A markdown table: a row for each game and goal for which both sides were measured."""
    lines = ["| game | ours | against | ours, per second | theirs | reached | goal | |", f"|{' --- |' * 8}"]
    for game, rows in results.items():
        for goal in goals:
            ours = best(rows, goal.system, goal.operation)
            theirs = best(rows, goal.others, goal.operation) if goal.others else None
            if ours is None or (goal.others and theirs is None):
                continue
            reached = ours if theirs is None else ours / theirs
            unit, against = (" /s", "–") if theirs is None else ("x", f"{goal.others}, its best")
            cells = [
                game,
                f"{goal.system}: {goal.operation}",
                against,
                f"{ours:,.0f}",
                "–" if theirs is None else f"{theirs:,.0f}",
                f"{reached:,.0f}{unit}" if theirs is None else f"{reached:.2f}{unit}",
                f"{_plain(goal.of(game))}{unit}",
                "yes" if reached >= goal.of(game) else "**no**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def best(results: Sequence[Result], name: str, operation: str) -> float | None:
    """The fastest of the systems whose names begin so, with the batch size that suits it; None if none has it."""
    speeds = [
        speed
        for result in results
        if result.system.startswith(name)
        for measured in result.rates
        if measured.split("/")[0] == operation and (speed := result.speed(measured)) is not None
    ]
    return max(speeds, default=None)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
