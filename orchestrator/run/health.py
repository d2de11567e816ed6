"""What the answers of one round mean: for the supervisor, and for whoever looks at the run.

The supervisor watches units: a process alone, or all ranks of the learner, which cannot go on without one another and
are started again together.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.processes.context import Name
from upcycle.errors import UserError

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Handle


@dataclass(frozen=True, slots=True)
class Findings:
    """What one round has shown.

    Attributes:
      dead: units of which a process has died, or ended too early, and why.
      heard: units all of whose processes have answered.
      finished: the run has done all its phases, as rank 0 of the learner says.
    """

    dead: dict[Name, str]
    heard: set[Name]
    finished: bool


def unit_of(name: Name) -> Name:
    """The unit of a process."""
    role, index = name
    return (role, 0 if role == "learner" else index)


def members(unit: Name, names: Iterable[Name]) -> list[Name]:
    """The processes of a unit, in the order of `names`."""
    return [name for name in names if unit_of(name) == unit]


def called(unit: Name, names: Iterable[Name]) -> str:
    """How people know a unit."""
    role, index = unit
    size = len(members(unit, names))
    return f"{role}-{index}" if size == 1 else f"{role} ({size} ranks)"


def judge(handles: "Mapping[Name, Handle]", answers: Mapping[str, str | None]) -> Findings:
    """Reads the answers.

    Args:
      answers: of `Cluster.poll`, which has put newer statuses into the handles.
    Raises: UserError that a process met.
    """
    reasons, silent, finished = dict[Name, list[str]](), set[Name](), False
    for name, handle in handles.items():
        unit = unit_of(name)
        if handle.name not in answers:
            silent.add(unit)
            continue
        reason = answers[handle.name]
        if reason is None:
            if handle.status["user_error"] is not None:
                raise UserError(*handle.status["user_error"])
            finished = finished or (name == ("learner", 0) and handle.status["state"] == "finished")
            reason = _failure(name, handle)
        if reason is not None:
            alone = len(members(unit, handles)) == 1
            reasons.setdefault(unit, []).append(reason if alone else f"{handle.name}: {reason}")
    dead = {unit: "; ".join(texts) for unit, texts in reasons.items()}
    return Findings(dead, {unit_of(name) for name in handles} - silent - set(dead), finished)


def _failure(name: Name, handle: "Handle") -> str | None:
    state = handle.status["state"]
    if state == "failed":
        return str(handle.status["error"])
    # Ranks of the learner end together; the first of them says what that means.
    if state == "finished" and name[0] != "learner":
        return "ended although nobody had asked it to"
    return None


def awaited(handles: "Iterable[Handle]", *, is_up: bool) -> str | None:
    """What processes have no place for, or who has yet to come up; None if nobody.

    Args:
      is_up: the learner has begun; from then on a process that starts holds nobody up.
    """
    handles = list(handles)
    for handle in handles:
        if handle.waiting is not None:
            return handle.waiting
    late = [handle for handle in handles if handle.state == "starting"]
    if is_up or not late:
        return None
    seconds = max(0.0, time.time() - min(handle.since for handle in late))
    return f"{', '.join(handle.name for handle in late)} to start, {seconds:.0f} s so far"
