"""How many CPUs each process of a run asks for, and which of them sit on one node. Pure.

    nodes + what processes could use --> plan --> requests that can be packed on these nodes --> pack --> groups

A process asks for as many cores as it can use, or, where there are too few, for the same part of that as all others; so
small clusters run everything, too, and what is returned always fits, node by node, and not only in sum. CPUs are whole
hundredths of a core: their sums are exact.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)

CORE: Final = 100
"""Units of one core."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a node has, or has free: hundredths of a core, and whole GPUs."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a process can use.

    Attributes:
      cores: above 0.
      gpus: that it must have.
      together: it would rather share a node with the others that say so.
    """

    cores: int
    gpus: int = 0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What a process asks for.

    Attributes:
      cpus: hundredths of a core, above 0; whole cores from one on, which is how Ray gives them out.
    """

    cpus: int
    gpus: int = 0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Group(Generic[P]):
    """Processes that share a node, and what they ask for together."""

    members: tuple[P, ...]
    cpus: int
    gpus: int


def plan(rooms: Sequence[Room], demands: Mapping[P, Demand]) -> dict[P, Request] | None:
    """Requests that can be packed into these rooms, as large as can be; None if no requests can.

    A process that could use more cores than the largest node has asks for a node.
    """
    largest, total = max((room.cpus for room in rooms), default=0), sum(room.cpus for room in rooms)
    for percent in range(100, -1, -1):
        requests = {
            process: Request(_share(min(demand.cores, max(largest // CORE, 1)), percent), demand.gpus, demand.together)
            for process, demand in demands.items()
        }
        if sum(request.cpus for request in requests.values()) <= total and pack(rooms, requests) is not None:
            return requests
    return None


def pack(rooms: Sequence[Room], requests: Mapping[P, Request]) -> list[Group[P]] | None:
    """The processes of each node, spread over the nodes if that can be; None if they are not found to fit.

    If all requests are for the same CPUs and each for one GPU or none, they are found to fit whenever they do.

    Returns: the largest group first, those with GPUs before the others. Whoever reserves them in this order, on any
      node with enough room at that moment, finds a node for each (as far as CPUs decide it): before the i-th group at
      most i - 1 of the i nodes that are large enough for it have been touched.
    """
    return _fill(rooms, requests, spread=True) or _fill(rooms, requests, spread=False)


def pack_some(rooms: Sequence[Room], requests: Mapping[P, Request]) -> list[Group[P]]:
    """Groups of as many of the processes as are found to fit, taken in their order."""
    taken, groups = dict[P, Request](), list[Group[P]]()
    for process, request in requests.items():
        found = pack(rooms, {**taken, process: request})
        if found is not None:
            taken[process], groups = request, found
    return groups


def in_words(cpus: int, gpus: int) -> str:
    """CPUs and GPUs for people: "0.66 CPUs and 1 GPU"."""
    words = [f"{cpus / CORE:g} CPU{'' if cpus == CORE else 's'}"]
    if gpus:
        words.append(f"{gpus} GPU{'' if gpus == 1 else 's'}")
    return " and ".join(words)


def rooms_in_words(rooms: Iterable[Room]) -> str:
    """What a cluster has: "4 CPUs on 2 nodes (2, 2)"."""
    rooms = list(rooms)
    words = in_words(sum(room.cpus for room in rooms), sum(room.gpus for room in rooms))
    if len(rooms) == 1:
        return f"{words} on 1 node"
    each = ", ".join(f"{room.cpus / CORE:g}" + (f" + {room.gpus} GPU" if room.gpus else "") for room in rooms[:8])
    return f"{words} on {len(rooms)} nodes" + (f" ({each}{', ...' if len(rooms) > 8 else ''})" if rooms else "")


def _share(cores: int, percent: int) -> int:
    """So much of some cores; at 0 percent the least that can be asked for."""
    units = cores * percent * CORE // 100
    return max(units // CORE * CORE if units >= CORE else units, 1)


def _fill(rooms: Sequence[Room], requests: Mapping[P, Request], *, spread: bool) -> list[Group[P]] | None:
    cpus, gpus = [room.cpus for room in rooms], [room.gpus for room in rooms]
    members = [list[P]() for _ in rooms]
    home: int | None = None
    for process, request in sorted(requests.items(), key=lambda item: (-item[1].gpus, -item[1].cpus)):
        fitting = [node for node in range(len(rooms)) if cpus[node] >= request.cpus and gpus[node] >= request.gpus]
        if not fitting:
            return None
        if request.together and home in fitting:
            node = home
        else:
            sign = 1 if spread else -1
            node = max(fitting, key=lambda node: (sign * cpus[node] if not request.gpus else gpus[node], -node))
        if request.together:
            home = node
        cpus[node] -= request.cpus
        gpus[node] -= request.gpus
        members[node].append(process)
    groups = [
        Group(tuple(names), room.cpus - cpus[node], room.gpus - gpus[node])
        for node, (room, names) in enumerate(zip(rooms, members, strict=True))
        if names
    ]
    return sorted(groups, key=lambda group: (-group.gpus, -group.cpus))
