"""Turns and weights, and a fleet of them over real accounts: no shard is favoured, and who lags behind catches up."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.client.turns import Turns, weights
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats
from tests.helpers.fleet import STEPS, Fleet, spread

FLOW = Flow(8.0, 256, 0)


def even(num_shards: int) -> dict[int, float]:
    return dict.fromkeys(range(num_shards), 1.0)


def holding(num_chunks: int, *, slots: int = 100, draining: bool = False) -> TableStats:
    return TableStats(replace(FLOW, draining=draining), capacity_steps=slots * STEPS, num_chunks=num_chunks)


@given(
    parts=st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=1, max_size=8),
    amounts=st.lists(st.integers(1, 9), min_size=1, max_size=200),
    first=st.integers(0, 1 << 16),
)
def test_what_two_shards_get_differs_by_one_amount_at_the_most(
    parts: list[float], amounts: list[int], first: int
) -> None:
    turns, given_so_far = Turns(first), Counter[int]()
    by_shard = dict(enumerate(parts))
    for amount in amounts:
        index = turns.order(by_shard)[0]
        turns.give(index, amount, by_shard)
        given_so_far[index] += amount
        levels = [given_so_far[index] / part for index, part in by_shard.items()]
        assert max(levels) - min(levels) <= max(amounts) / min(parts) + 1e-9


def test_ties_go_to_another_shard_for_each_client() -> None:
    first = Counter(Turns(number).order(even(4))[0] for number in range(40))
    assert first == dict.fromkeys(range(4), 10)
    assert Turns(7).order({}) == []


def test_who_could_not_take_its_turns_is_owed_four_and_who_is_new_none() -> None:
    turns, both, taken = Turns(), even(2), Counter[int]()
    for _ in range(50):  # 0 never has room
        turns.give(1, 8, both)
    for _ in range(10):
        index = turns.order(both)[0]
        turns.give(index, 8, both)
        taken[index] += 1
    assert taken == {0: 7, 1: 3}
    three = even(3)
    for _ in range(9):
        index = turns.order(three)[0]
        turns.give(index, 8, three)
        taken[index] += 1
    assert taken[2] in (3, 4)


def test_weights_are_capacities_and_four_times_that_for_who_lags_behind() -> None:
    shards = {0: holding(50), 1: holding(46), 2: holding(44), 3: holding(0), 4: holding(100, slots=200)}
    assert {index: weight / STEPS for index, weight in weights(shards, STEPS).items()} == {
        0: 100,
        1: 100,
        2: 400,
        3: 400,
        4: 200,
    }


def test_a_shard_that_drains_neither_lags_nor_is_caught_up_with() -> None:
    shards = {0: holding(10), 1: holding(90, draining=True), 2: holding(0, draining=True), 3: holding(9)}
    assert set(weights(shards, STEPS).values()) == {100 * STEPS}


def test_a_shard_that_nothing_is_known_of_is_as_large_as_the_others() -> None:
    assert weights({0: None, 1: None}, STEPS) == {0: 1.0, 1: 1.0}
    assert weights({0: holding(5), 1: None, 2: holding(9, slots=200)}, STEPS)[1] == 150 * STEPS
    assert weights({}, STEPS) == {}


def test_small_tables_do_not_lag_by_a_chunk_under_way() -> None:
    assert set(weights({0: holding(4, slots=4), 1: holding(2, slots=4)}, STEPS).values()) == {4 * STEPS}


@pytest.mark.parametrize("num_shards", [2, 4, 8])
@pytest.mark.parametrize(("writing", "learning"), [(1.0, 0.3), (0.3, 1.0), (0.8, 0.4)])
def test_all_shards_take_alike_and_hold_equally_old_chunks(num_shards: int, writing: float, learning: float) -> None:
    """Inserts wait for samples; samples for inserts; and both by turns."""
    fleet = Fleet(num_shards, num_learners=2, num_slots=20, seed=num_shards)
    fleet.run(90 * num_shards, writing=writing, learning=learning)
    assert all(len(shard.slots) == 20 for shard in fleet.shards.values())
    assert spread(fleet.came()) < 0.1
    assert spread(fleet.oldest()) < 0.2


@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    num_shards=st.sampled_from([2, 3, 4, 8]),
    num_writers=st.integers(1, 6),
    num_learners=st.integers(1, 4),
    writing=st.sampled_from([0.2, 1.0]),
    learning=st.sampled_from([0.2, 1.0]),
    error_buffer=st.sampled_from([64, 100, 250, 1000]),
    request=st.sampled_from([64, 300, 512, 1000]),
    whole_chunks=st.booleans(),
    seed=st.integers(0, 99),
    events=st.lists(st.sampled_from(["die", "return", "join", "drain", "leave", "cancel", "seed"]), max_size=8),
)
def test_shards_come_and_go_and_afterwards_all_hold_and_take_alike(
    num_shards: int,
    num_writers: int,
    num_learners: int,
    writing: float,
    learning: float,
    error_buffer: int,
    request: int,
    whole_chunks: bool,
    seed: int,
    events: list[str],
) -> None:
    """Every account keeps within its buffer all the while (the fleet looks), and nobody waits for ever."""
    request = min(request, error_buffer * num_shards * 8)
    fleet = Fleet(
        num_shards,
        num_writers=num_writers,
        num_learners=num_learners,
        num_slots=16,
        error_buffer=error_buffer,
        request=request,
        whole_chunks=whole_chunks,
        seed=seed,
    )
    fleet.run(60, writing=writing, learning=learning)
    for event in events:
        happen(fleet, event)
        fleet.run(25, writing=writing, learning=learning)
    for shard in fleet.shards.values():
        shard.flow = shard.flow.after_drain(False)
    wait_until_full(fleet, writing, learning)
    # From now on: the same, to a few chunks for what the accounts and the clients' turns may be apart.
    before, batches = fleet.came(), fleet.num_batches
    while sum(fleet.came().values()) - sum(before.values()) < 30 * STEPS * len(fleet.shards):
        came = sum(fleet.came().values())
        fleet.run(200, writing=writing, learning=learning)
        assert sum(fleet.came().values()) > came, "everybody waits for ever"
    assert fleet.num_batches > batches
    taken = {index: came - before[index] for index, came in fleet.came().items()}
    slack = 2 * error_buffer + num_learners * request / 8 + num_writers * STEPS
    noise = 0.0 if whole_chunks else 0.35
    assert max(taken.values()) - min(taken.values()) <= slack + (0.02 + noise) * max(taken.values())


def happen(fleet: Fleet, event: str) -> None:
    """One shard dies, or comes back empty; and so on. One at least stays that takes chunks."""
    taking = [index for index, shard in fleet.shards.items() if not shard.flow.draining]
    draining = [index for index, shard in fleet.shards.items() if shard.flow.draining]
    newest = max(fleet.shards)
    if event == "die" and len(taking) > 1:
        del fleet.shards[taking[0]]
    elif event in ("return", "join"):
        index = next((index for index in range(newest) if index not in fleet.shards), newest + 1)
        fleet.shards[index] = fleet.new_shard(joins=event == "join")
    elif event == "seed":
        index = next((index for index in range(newest) if index not in fleet.shards), newest + 1)
        fleet.shards[index] = fleet.new_shard()
        for _ in range(10):
            fleet.shards[index].seed(STEPS)
    elif event == "drain" and len(taking) > 1:
        shard = fleet.shards[taking[-1]]
        shard.flow = shard.flow.after_drain(True)
    elif event == "cancel" and draining:
        shard = fleet.shards[draining[0]]
        shard.flow = shard.flow.after_drain(False)
    elif event == "leave" and draining:
        del fleet.shards[draining[0]]


def wait_until_full(fleet: Fleet, writing: float, learning: float) -> None:
    for _ in range(100):
        if all(len(shard.slots) == fleet.num_slots for shard in fleet.shards.values()):
            return
        fleet.run(40, writing=writing, learning=learning)
    raise AssertionError(f"some shard never fills: {[len(shard.slots) for shard in fleet.shards.values()]}")


def test_a_shard_that_returns_empty_catches_up_and_the_others_go_on() -> None:
    fleet = Fleet(3, num_slots=200, seed=5)
    fleet.run(200, writing=1.0, learning=0.5)
    fleet.shards[1] = fleet.new_shard()
    others = fleet.came()[0]
    sizes = [0, 200]
    for _ in range(40):
        if max(sizes) - min(sizes) > 12:
            fleet.run(10, writing=1.0, learning=0.5)
            sizes = [len(shard.slots) for shard in fleet.shards.values()]
    assert max(sizes) - min(sizes) <= 12
    assert max(sizes) < 200
    assert fleet.came()[0] > others
