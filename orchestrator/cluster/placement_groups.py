"""The places of a run's processes on the nodes of a Ray: planned by `placement`, reserved in Ray, found again.

    nodes --> plan (refused, or requests) --> all groups reserved, or none --> each process in the room of its group
                  node lost: its groups are --> those processes reserved anew, as many as fit

All or none at first, since two runs that each hold a half and wait for the other's would wait for ever. A reservation
is a placement group of one bundle. Ray retries one whose node is lost without a pause, so such a one is removed.
"""

import random
import re
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster.placement import CORE, Demand, Group, Room, in_words, pack, pack_some, plan, rooms_in_words
from orchestrator.processes.context import Name
from upcycle.config.run import LearnerConfig, RunConfig
from upcycle.errors import UserError

_RESERVE_SECONDS: Final = 2.0  # takes milliseconds, unless somebody else was quicker
_AGAIN_SECONDS: Final = 2.0  # two runs that were in each other's way try again at different times
_OURS: Final = re.compile(r"upcycle-(.+)-(?:replay|actor|learner|evaluator)(?:-\d+)?")


class Places:
    """Where the processes of one run may be.

    Args:
      address: of the Ray, for messages.
    Raises: UserError if this Ray can never hold them all.
    """

    def __init__(self, config: RunConfig, namespace: str, address: str) -> None:
        rooms = list(_rooms().values())
        gpus = gpus_of_rank(config.learner, sum(room.gpus for room in rooms))
        self._demands, self._namespace = demands_of(config, gpus), namespace
        requests = plan(rooms, self._demands)
        if requests is None:
            needed = in_words(len(self._demands), gpus * config.learner.ranks)
            problem = f"has {rooms_in_words(rooms)}; {len(self._demands)} processes need {needed} at the least"
            raise UserError("cluster.address", address, problem, "add nodes, or set learner.device=cpu")
        self._requests = requests
        self._homes = dict[Name, tuple[PlacementGroup, str]]()  # and the node's id
        self._again = 0.0

    def look(self) -> None:
        """Reserves places for whoever has none, as far as there is room now, and drops those on nodes that are lost."""
        rooms = _rooms()
        for name, (group, node) in list(self._homes.items()):
            if node not in rooms:
                del self._homes[name]
                if group not in (other for other, _ in self._homes.values()):
                    remove_placement_group(group)
        if not self.missing or time.monotonic() < self._again:
            return
        if not self._homes:  # nodes may have joined or left since it was planned
            self._requests = plan(list(rooms.values()), self._demands) or self._requests
        free, missing = list(_free(rooms).values()), {name: self._requests[name] for name in self.missing}
        groups = pack_some(free, missing) if self._homes else pack(free, missing)
        if groups:
            self._reserve(groups)

    @property
    def missing(self) -> list[Name]:
        """Processes without a place."""
        return [name for name in self._requests if name not in self._homes]

    def options(self, name: Name) -> dict[str, Any] | None:
        """Ray's options for a process; None while it has no place.

        A process that was not planned (a shard that joins a run under way) asks for nothing: all has been given out.
        """
        if name not in self._requests:
            return {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
        if name not in self._homes:
            return None
        request, (group, _) = self._requests[name], self._homes[name]
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        return {"num_cpus": request.cpus / CORE, "num_gpus": request.gpus, "scheduling_strategy": strategy}

    def needs(self, name: Name) -> str | None:
        """What a process asks for, in words; None of one that asks for nothing."""
        request = self._requests.get(name)
        return None if request is None else in_words(request.cpus, request.gpus)

    def cores(self, name: Name) -> int:
        """Cores that a process can use, whatever it asks for."""
        return self._demands[name].cores if name in self._demands else 1

    def waiting(self) -> str | None:
        """What the run waits for, what there is, and who has it; None if every process has a place."""
        missing = [self._requests[name] for name in self.missing]
        if not missing:
            return None
        needed = in_words(sum(request.cpus for request in missing), sum(request.gpus for request in missing))
        rooms = _rooms()
        free = list(_free(rooms).values())
        free_words = in_words(sum(room.cpus for room in free), sum(room.gpus for room in free))
        words = f"{needed}: Ray has {rooms_in_words(rooms.values())}, {free_words} free"
        others = self._other_runs()
        return words + (f"; {', '.join(others)} also here" if others else "")

    def _reserve(self, groups: list[Group[Name]]) -> None:
        """All of these groups, or none."""
        reserved = list[tuple[Group[Name], PlacementGroup, str]]()
        for group in groups:
            bundle = {"CPU": group.cpus / CORE} | ({"GPU": float(group.gpus)} if group.gpus else {})
            made = placement_group([bundle], strategy="PACK")
            node = _node_of(made) if made.wait(_RESERVE_SECONDS) else None
            if node is None:  # somebody else was quicker
                for _, other, _ in reserved:
                    remove_placement_group(other)
                remove_placement_group(made)
                self._again = time.monotonic() + _AGAIN_SECONDS * random.random()
                return
            reserved.append((group, made, node))
        for group, made, node in reserved:
            self._homes |= dict.fromkeys(group.members, (made, node))

    def _other_runs(self) -> list[str]:
        actors = cast(list[dict[str, str]], cast(Any, ray.util).list_named_actors(all_namespaces=True))
        names = [_OURS.fullmatch(actor["name"]) for actor in actors if actor["namespace"] != self._namespace]
        return sorted({f"run {match[1]}" for match in names if match})


def demands_of(config: RunConfig, gpus_of_each_rank: int) -> dict[Name, Demand]:
    """What the processes of a run can use."""
    learner = Demand(config.learner.threads or 1, gpus_of_each_rank, together=True)
    kinds: list[tuple[Any, int, Demand]] = [
        ("learner", config.learner.ranks, learner),
        ("replay", config.replay.num_shards, Demand(1)),
        ("evaluator", 1, Demand(1)),
        ("actor", config.actors.num_actors, Demand(config.actors.threads)),
    ]
    return {(role, index): demand for role, count, demand in kinds for index in range(count)}


def gpus_of_rank(learner: LearnerConfig, gpus: int) -> int:
    """GPUs for each rank of a learner in a cluster that has so many.

    Raises: UserError if some ranks would have one and some not, or none that has been asked for.
    """
    if learner.device == "cpu":
        return 0
    if gpus >= learner.ranks:
        return 1
    if gpus >= 1:  # NCCL refuses two ranks on one GPU; a rank without one would hold up the others
        remedy = f"set learner.ranks={gpus} or fewer, or learner.device=cpu"
        raise UserError("learner.ranks", learner.ranks, f"this cluster has only {gpus} GPUs", remedy)
    if learner.device == "cuda":
        raise UserError("learner.device", "cuda", "this cluster has no GPU", "set learner.device=auto")
    return 0


def _rooms() -> dict[str, Room]:
    """What each living node has, by its id."""
    nodes = cast(list[dict[str, Any]], cast(Any, ray).nodes())
    return {node["NodeID"]: _room(node["Resources"]) for node in nodes if node["Alive"]}


def _free(rooms: Mapping[str, Room]) -> dict[str, Room]:
    """What each of these nodes has free now."""
    free = cast(dict[str, dict[str, float]], cast(Any, ray)._private.state.available_resources_per_node())
    return {node: _room(free.get(node, {})) for node in rooms}


def _room(resources: Mapping[str, float]) -> Room:
    return Room(int(resources.get("CPU", 0.0) * CORE + 1e-6), int(resources.get("GPU", 0.0) + 1e-6))


def _node_of(group: PlacementGroup) -> str | None:
    table = cast(dict[str, Any], cast(Any, ray.util).placement_group_table(group))
    return table["bundles_to_node_id"].get(0) or None
