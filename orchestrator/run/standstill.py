"""Why a run makes no progress: of all that wait, who holds up the others, for what and since when. Pure.

    learner-0: samples --> all actors: room --> learner-0             a ring: replay's limiter lets neither go on
    learner-0: samples --> all actors: shards --> replay-1: cpus      the root: replay-1 has no place on any node

Each process says what it waits for (`waits`); what it waits for comes from processes of another role. Whoever
is reached last on that way is the cause, and the others wait for it.
"""

import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from upcycle.runs.waits import Wait, WaitKind

PATIENCE_SECONDS: Final = 30.0
"""So long a wait, or a run without progress, is nothing to speak of."""

_COMES_FROM: Final[Mapping[WaitKind, tuple[str, ...]]] = {
    "cpus": (),
    "start": (),
    "shards": ("replay",),
    "ranks": ("learner",),
    "weights": ("learner",),
    "teacher": ("replay",),
    "phase": ("learner",),
    "room": ("learner",),
    "samples": ("actor",),
}
"""The roles that give what is waited for."""

_ANY_OF: Final = frozenset[WaitKind]({"samples"})
"""One process that works is enough for these; for the others every process of the role is needed."""

_AFTER_WEIGHTS: Final = frozenset[WaitKind]({"teacher", "samples"})
"""A learner that waits for these has published weights: whoever waits for them waits for something else."""

_NEVER_USUAL: Final = frozenset[WaitKind]({"cpus", "shards", "ranks", "weights"})
"""Worth a word after `PATIENCE_SECONDS` also in a run that goes on without whoever waits."""

WORDS: Final[Mapping[WaitKind, tuple[str, str]]] = {
    "cpus": ("waits for CPUs", "wait for CPUs"),
    "start": ("is being started", "are being started"),
    "shards": ("reaches no replay shard", "reach no replay shard"),
    "ranks": ("waits for the learner's other ranks", "wait for the learner's other ranks"),
    "weights": ("waits for weights", "wait for weights"),
    "teacher": ("waits for the teacher's experience", "wait for the teacher's experience"),
    "phase": ("waits for the offline phase to end", "wait for the offline phase to end"),
    "room": ("waits for samples to be drawn", "wait for samples to be drawn"),
    "samples": ("waits for experience to come in", "wait for experience to come in"),
}
"""What is said of one process, and of several."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """What holds up a run, or a part of it.

    Attributes:
      since: Unix seconds since which nothing has moved; None if the run goes on without those that wait.
      causes: the processes that hold up the others, and what for; empty where none of them waits.
      held_up: those that wait for them.
    """

    since: float | None
    causes: Mapping[str, Wait]
    held_up: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """One line for people; of several that wait for the same, what the first of them knows about it."""
        text = "; ".join(self._cause_lines()) or "no process says that it waits for anything"
        if {wait.kind for wait in self.causes.values()} == {"samples", "room"}:
            text = f"replay's limiter is at rest, it lets neither side go on: {text}"
        if self.held_up:
            text += f"; {', '.join(self.held_up)} {'wait' if len(self.held_up) > 1 else 'waits'} for that"
        return text if self.since is None else f"no progress since {clock_time(self.since)}: {text}"

    @property
    def key(self) -> Hashable:
        """Equal for standstills of the same causes."""
        return self.since is None, frozenset((name, wait.kind) for name, wait in self.causes.items())

    def to_json(self) -> dict[str, Any]:
        """Plain values: `line`, `since`, `causes` (name, kind, since, detail of each), `held_up`."""
        causes = [{"process": name, **wait.to_json()} for name, wait in self.causes.items()]
        return {"line": self.line, "since": self.since, "causes": causes, "held_up": list(self.held_up)}

    def _cause_lines(self) -> Iterator[str]:
        together = dict[WaitKind, list[str]]()
        for name, wait in self.causes.items():
            together.setdefault(wait.kind, []).append(name)
        for kind, names in together.items():
            first = min((self.causes[name] for name in names), key=lambda wait: wait.since)
            told = f" ({first.detail})" if first.detail else ""
            yield f"{', '.join(names)} {WORDS[kind][len(names) > 1]} since {clock_time(first.since)}{told}"


def clock_time(seconds: float) -> str:
    """Unix seconds as the time of day on this machine; with the date if it is not today's or yesterday's."""
    there = time.localtime(seconds)
    return time.strftime("%H:%M:%S" if abs(time.time() - seconds) < 86400 else "%Y-%m-%d %H:%M:%S", there)


def explain(waits: Mapping[str, Wait | None], *, still_since: float | None, now: float) -> Standstill | None:
    """What holds up a run; None if nothing is worth a word.

    Args:
      waits: of every process, by its name ("<role>-<index>"), what it waits for, or None if it works.
      still_since: Unix seconds of the run's last progress, as far as that is known.
      now: Unix seconds.
    """
    still = still_since is not None and now - still_since >= PATIENCE_SECONDS
    waiting = {name: wait for name, wait in waits.items() if wait is not None}
    if still:
        victims = {name: wait for name, wait in waiting.items() if wait.kind != "phase"} or waiting
    else:
        unusual = {name: wait for name, wait in waiting.items() if wait.kind in _NEVER_USUAL}
        victims = {name: wait for name, wait in unusual.items() if now - wait.since >= PATIENCE_SECONDS}
    if not victims:
        return Standstill(still_since, {}) if still else None
    givers = {name: _givers(name, wait, waits) for name, wait in waiting.items()}
    roots = {root for name in victims for root in _roots(name, waiting, givers)}
    causes = {name: waiting[name] for name in waits if name in roots}
    held_up = tuple(name for name in waits if name in victims and name not in roots)
    return Standstill(still_since if still else None, causes, held_up)


def _givers(name: str, wait: Wait, waits: Mapping[str, Wait | None]) -> list[str]:
    """Who holds a process up: those that ought to give what it waits for, and wait themselves."""
    others = [other for other in waits if other != name and other.rpartition("-")[0] in _COMES_FROM[wait.kind]]
    blocked = {other: given for other in others if (given := waits[other]) is not None}
    held = [other for other, given in blocked.items() if wait.kind != "weights" or given.kind not in _AFTER_WEIGHTS]
    return [] if wait.kind in _ANY_OF and len(held) < len(others) else held


def _roots(name: str, waiting: Mapping[str, Wait], givers: Mapping[str, list[str]]) -> set[str]:
    """The last on the way from a process to those that hold it up; of a ring, what has to come first."""
    seen, todo, roots = {name}, [name], set[str]()
    while todo:
        one = todo.pop()
        if not givers[one]:
            roots.add(one)
        for giver in givers[one]:
            if giver not in seen:
                seen.add(giver)
                todo.append(giver)
    if roots:
        return roots
    kinds = {waiting[one].kind for one in seen}
    if kinds == {"samples", "room"}:  # neither side may go on: both are the limiter's
        return seen
    first = next(kind for kind in _COMES_FROM if kind in kinds)  # in that order nothing comes before what it needs
    return {one for one in seen if waiting[one].kind == first}


class Movement:
    """Since when a run has not moved. Pure: counters and the time in."""

    def __init__(self) -> None:
        self._counters: Hashable = None
        self._since: float | None = None

    def update(self, counters: Hashable, *, now: float) -> float:
        """Takes the run's counters; returns when they were seen to move last."""
        if self._since is None or counters != self._counters:
            self._counters, self._since = counters, now
        return self._since
