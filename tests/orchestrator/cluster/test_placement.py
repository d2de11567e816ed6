"""What a run asks for fits the nodes, one by one; what is refused fits no way."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cluster.placement import (
    CORE,
    Demand,
    Group,
    Request,
    Room,
    in_words,
    pack,
    pack_some,
    plan,
    rooms_in_words,
)

ROOMS = st.lists(st.builds(Room, st.integers(0, 900), st.integers(0, 3)), max_size=5)
DEMANDS = st.lists(st.builds(Demand, st.integers(1, 6), st.integers(0, 1), st.booleans()), min_size=1, max_size=12)


def requests(*cpus: int, gpus: int = 0) -> dict[int, Request]:
    return {process: Request(units, gpus) for process, units in enumerate(cpus)}


def fits(rooms: list[Room], groups: list[Group[int]], asked: dict[int, Request]) -> bool:
    """Whether the groups hold every process once, add up, and have a node each."""
    members = sorted(process for group in groups for process in group.members)
    sums = all(
        (group.cpus, group.gpus)
        == (
            sum(asked[process].cpus for process in group.members),
            sum(asked[process].gpus for process in group.members),
        )
        for group in groups
    )
    placed = any(
        all(group.cpus <= room.cpus and group.gpus <= room.gpus for group, room in zip(groups, nodes, strict=True))
        for nodes in itertools.permutations(rooms, len(groups))
    )
    return members == sorted(asked) and sums and placed


@settings(deadline=None)
@given(ROOMS, DEMANDS)
def test_whatever_is_planned_can_be_packed(rooms: list[Room], wanted: list[Demand]):
    demands = dict(enumerate(wanted))
    asked = plan(rooms, demands)
    if asked is None:
        return
    groups = pack(rooms, asked)
    assert groups is not None
    assert fits(rooms, groups, asked)
    for process, demand in demands.items():
        assert 0 < asked[process].cpus <= demand.cores * CORE
        assert (
            asked[process].cpus < CORE or asked[process].cpus % CORE == 0
        )  # Ray gives out parts of a core, or whole ones
        assert asked[process].gpus == demand.gpus


@settings(deadline=None)
@given(
    st.lists(st.builds(Room, st.integers(0, 4), st.integers(0, 3)), max_size=4), st.integers(0, 5), st.integers(0, 6)
)
def test_whatever_is_refused_cannot_be_packed(rooms: list[Room], num_ranks: int, num_others: int):
    """Against a count of its own: nodes of so few hundredths of a core that everything asks for one of them."""
    demands = {("rank", index): Demand(2, 1) for index in range(num_ranks)}
    demands |= {("other", index): Demand(1) for index in range(num_others)}
    ranks_fit = sum(min(room.cpus, room.gpus) for room in rooms) >= num_ranks
    all_fit = ranks_fit and sum(room.cpus for room in rooms) >= num_ranks + num_others
    assert (plan(rooms, demands) is not None) == all_fit


@settings(deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=5), st.lists(st.integers(1, 3), min_size=1), st.randoms())
def test_groups_find_a_node_wherever_the_earlier_ones_went(cpus: list[int], cores: list[int], source: random.Random):
    """Ray, which reserves them in their order, may put each on any node with room."""
    rooms = [Room(units) for units in cpus]
    asked = plan(rooms, {process: Demand(wanted) for process, wanted in enumerate(cores)})
    if asked is None:
        return
    free = list(cpus)
    for group in pack(rooms, asked) or []:
        node = source.choice([node for node, units in enumerate(free) if units >= group.cpus])
        free[node] -= group.cpus


def test_nodes_of_two_cores_take_five_processes():
    """0.9 x 4 / 5 = 0.72 each would leave the fifth without a node for ever."""
    rooms = [Room(2 * CORE), Room(2 * CORE)]
    asked = plan(rooms, {process: Demand(1) for process in range(5)}) or {}
    assert asked == requests(66, 66, 66, 66, 66)
    assert [len(group.members) for group in pack(rooms, asked) or []] == [3, 2]


def test_where_there_is_plenty_everything_has_what_it_can_use():
    asked = plan([Room(8 * CORE), Room(8 * CORE, 2)], {"learner": Demand(4, 1), "actor": Demand(2), "shard": Demand(1)})
    assert asked == {"learner": Request(400, 1), "actor": Request(200), "shard": Request(100)}


def test_a_process_with_more_threads_than_any_node_has_asks_for_a_node():
    asked = plan([Room(4 * CORE), Room(4 * CORE)], {"learner": Demand(16), "shard": Demand(1), "actor": Demand(1)})
    assert asked == {"learner": Request(400), "shard": Request(100), "actor": Request(100)}


def test_processes_are_spread_but_ranks_stay_together():
    rooms = [Room(4 * CORE), Room(4 * CORE)]
    asked = {"rank-0": Request(100, together=True), "rank-1": Request(100, together=True)}
    asked |= {"shard-0": Request(100), "shard-1": Request(100), "actor": Request(100)}
    groups = pack(rooms, asked)
    assert groups is not None
    assert sorted(sorted(group.members) for group in groups) == [
        ["actor", "rank-0", "rank-1"],
        ["shard-0", "shard-1"],
    ]


def test_gpus_go_to_the_nodes_that_have_them():
    rooms = [Room(8 * CORE), Room(2 * CORE, 1), Room(2 * CORE, 1)]
    groups = pack(rooms, requests(100, 100, gpus=1) | {2: Request(100)})
    assert groups is not None
    assert [(group.members, group.gpus) for group in groups] == [((0,), 1), ((1,), 1), ((2,), 0)]


@pytest.mark.parametrize("rooms", [[], [Room(0)], [Room(800), Room(0, 1)]])
def test_no_place_at_all(rooms: list[Room]):
    assert plan(rooms, {"learner": Demand(1, 1)}) is None


def test_some_are_better_than_none_for_a_run_that_has_lost_a_node():
    assert pack_some([Room(70)], requests(66, 66)) == [Group((0,), 66, 0)]
    assert pack_some([Room(10)], requests(66, 66)) == []


def test_in_words():
    assert in_words(100, 0) == "1 CPU"
    assert in_words(66, 1) == "0.66 CPUs and 1 GPU"
    assert rooms_in_words([Room(200)]) == "2 CPUs on 1 node"
    assert rooms_in_words([Room(200), Room(150, 2)]) == "3.5 CPUs and 2 GPUs on 2 nodes (2, 1.5 + 2 GPU)"
    assert rooms_in_words([]) == "0 CPUs on 0 nodes"
