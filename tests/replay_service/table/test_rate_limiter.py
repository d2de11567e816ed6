"""The limiter, walked step by step, and the promise that nobody waits for ever."""

from dataclasses import replace
from functools import reduce
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.table.rate_limiter import Flow

# 8 samples per insert, sides at most 16 inserts apart, 20 transitions to begin with.
EMPTY = Flow(samples_per_insert=8.0, error_buffer_steps=16, min_size_to_sample=20)


def test_step_by_step() -> None:
    flow = EMPTY
    assert not flow.may_sample(1)  # nothing there
    flow = flow.after_insert(10)
    assert not flow.may_sample(1)  # 10 of 20
    assert (flow.num_free_inserts, flow.num_paced_inserts) == (10, 0)
    flow = flow.after_insert(14)
    assert (flow.num_free_inserts, flow.num_paced_inserts, flow.num_inserted) == (20, 4, 24)
    assert flow.surplus == 4
    assert flow.may_insert(12)  # 4 + 12 = 16: exactly at the buffer
    assert not flow.may_insert(13)
    flow = flow.after_insert(12)
    assert not flow.may_insert(1)
    flow = flow.after_sample(8)  # one insert's worth
    assert flow.surplus == 15
    assert flow.may_insert(1)
    assert not flow.may_insert(2)
    assert flow.may_sample(31 * 8)  # from 15 ahead to 16 behind
    assert not flow.may_sample(31 * 8 + 1)
    flow = flow.after_sample(31 * 8)
    assert flow.surplus == -16
    assert not flow.may_sample(1)
    flow = flow.after_insert(1)
    assert flow.may_sample(8)
    assert not flow.may_sample(9)


def test_seeded_transitions_fill_the_table_and_owe_nothing() -> None:
    flow = EMPTY.after_seed(30)
    assert flow.surplus == 0
    assert flow.num_inserted == 0
    assert flow.may_sample(16 * 8)
    assert not flow.may_sample(16 * 8 + 1)
    assert flow.after_insert(5).surplus == 5


def test_eviction_changes_the_size_alone() -> None:
    flow = EMPTY.after_insert(30)
    assert flow.after_eviction(8) == replace(flow, num_transitions=22)


def test_a_draining_table_gives_what_it_owes_and_takes_nothing() -> None:
    flow = EMPTY.after_insert(30).after_drain(True)  # 10 of them paced
    assert not flow.may_insert(1)
    assert flow.room_for_samples(10**6) == 10 * 8  # what it owes, where 16 inserts more would have been let ahead
    assert flow.after_sample(80).room_for_samples(1) == 0
    assert flow.after_sample(80).after_drain(False).room_for_samples(10**6) == 16 * 8
    ahead = EMPTY.after_insert(20).after_sample(40)
    assert ahead.after_drain(True).room_for_samples(1) == 0  # ahead already
    assert ahead.after_drain(True).surplus == -5
    assert flow.after_drain(True) == flow
    assert not EMPTY.after_drain(True).may_insert(1)  # though it would be free


def test_a_draining_table_gives_up_what_it_lacks_to_begin_with() -> None:
    """Two tables of 20 + 20: one takes no more at 5, the other 20 free and 16 paced ones, which are no 40."""
    draining, other = EMPTY.after_insert(5).after_drain(True), EMPTY.after_insert(20)
    assert draining.min_size_to_sample == 5
    assert (draining + other).is_filled
    assert not (draining + other).draining
    assert (draining + other.after_drain(True)).draining
    again = draining.after_drain(False)
    assert again.after_insert(8).num_paced_inserts == 8  # what it has given up is not free afterwards


def test_a_table_that_joins_takes_nothing_free_and_stops_nobody() -> None:
    begun, joining = EMPTY.after_insert(20), replace(EMPTY, min_size_to_sample=0)
    assert (begun + joining).is_filled
    assert not (begun + EMPTY).is_filled  # a share of its own would have stopped sampling until it is filled
    assert joining.after_insert(8).num_paced_inserts == 8
    assert joining.may_insert(16)
    assert not joining.may_insert(17)


def test_without_a_ratio_only_the_size_counts() -> None:
    free = replace(EMPTY, samples_per_insert=None)
    assert free.may_insert(10**9)
    assert not free.after_insert(19).may_sample(1)
    assert free.after_insert(20).may_sample(10**9)
    assert not replace(free, min_size_to_sample=0).may_sample(1)  # an empty table gives nothing


def test_shards_add_up() -> None:
    first, second = EMPTY.after_insert(24).after_sample(16), EMPTY.after_insert(5)
    total = first + second
    assert (total.num_transitions, total.num_inserted, total.num_sampled) == (29, 29, 16)
    assert (total.min_size_to_sample, total.error_buffer_steps) == (40, 32)
    assert total.surplus == first.surplus + second.surplus
    assert not total.may_sample(1)  # 29 of 40: counted over all shards, though the first has its share


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    ratio=st.one_of(st.sampled_from([0.1, 0.3, 1.0, 3.0, 8.0]), st.floats(0.01, 100)),
    paced=st.integers(0, 10**6),
    share=st.floats(-1, 1),
    wanted=st.integers(0, 100),
)
def test_room_is_the_most_that_keeps_within_the_buffer(ratio: float, paced: int, share: float, wanted: int) -> None:
    flow = Flow(ratio, 16, 1, num_transitions=1, num_paced_inserts=paced)
    flow = flow.after_sample(flow.room_for_samples(int((paced + 16 * share) * ratio) if paced > 16 else 0))
    room = flow.room_for_samples(wanted)
    assert 0 <= room <= wanted
    assert flow.after_sample(room).surplus >= -16
    # One more would be too many, but for what rounding may take off the last one.
    assert room == wanted or flow.after_sample(room + 1).surplus < -16 + 1e-9 * max(paced, 1)


def test_without_a_ratio_there_is_always_room() -> None:
    assert replace(EMPTY, samples_per_insert=None).room_for_samples(10**9) == 10**9


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), num_shards=st.integers(1, 4), ratio=st.sampled_from([0.1, 0.5, 3.0, 8.0]))
def test_every_account_keeps_within_its_buffer_and_somebody_can_always_go_on(
    data: st.DataObject, num_shards: int, ratio: float
) -> None:
    """Any number of clients: each asks any shard for any number of samples, and takes what it is given."""
    chunk = 8
    flows = [
        replace(EMPTY, samples_per_insert=ratio, error_buffer_steps=data.draw(st.integers(max(chunk, 10), 24)))
        for _ in range(num_shards)
    ]
    for _ in range(data.draw(st.integers(1, 120))):
        open_shards = [index for index, flow in enumerate(flows) if flow.may_insert(chunk)]
        with_room = [index for index, flow in enumerate(flows) if flow.room_for_samples(1)]
        assert open_shards or (with_room and reduce(add, flows).is_filled), "inserts and samples wait for each other"
        if open_shards and (data.draw(st.booleans()) or not with_room):
            index = data.draw(st.sampled_from(open_shards))
            flows[index] = flows[index].after_insert(chunk)
        elif with_room:
            index = data.draw(st.sampled_from(with_room))
            flows[index] = flows[index].after_sample(flows[index].room_for_samples(data.draw(st.integers(1, 500))))
        assert all(abs(flow.surplus) <= flow.error_buffer_steps for flow in flows)
        total = reduce(add, flows)
        assert abs(total.surplus) <= total.error_buffer_steps + 1e-9


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), ratio=st.sampled_from([0.1, 0.5, 3.0, 8.0]), min_size=st.sampled_from([0, 8, 20, 100]))
def test_tables_join_drain_and_leave_within_the_buffer_and_nobody_waits_for_ever(
    data: st.DataObject, ratio: float, min_size: int
) -> None:
    """Two tables to begin with; others join, any drains (and may be told to go on), leaves or is lost at any moment."""
    chunk = 8

    def new(share: int) -> Flow:
        return Flow(ratio, data.draw(st.integers(max(chunk, 10), 24)), share)

    flows, next_index = {0: new(min_size), 1: new(min_size)}, 2
    for _ in range(data.draw(st.integers(10, 60))):
        index = data.draw(st.sampled_from(sorted(flows)))
        action = data.draw(st.sampled_from(["insert", "sample"] * 2 + ["join", "drain", "cancel", "leave"]))
        before = reduce(add, flows.values())
        if action == "insert" and flows[index].may_insert(chunk):
            flows[index] = flows[index].after_insert(chunk)
        elif action == "sample" and before.is_filled:
            room = flows[index].room_for_samples(data.draw(st.integers(1, 500)))
            flows[index] = flows[index].after_sample(room)
        elif action == "join":
            flows[next_index], next_index = new(0), next_index + 1
            assert reduce(add, flows.values()).is_filled >= before.is_filled, "a table that joined stopped the others"
        elif action in ("drain", "cancel"):
            flows[index] = flows[index].after_drain(action == "drain")
            assert reduce(add, flows.values()).is_filled >= before.is_filled, "a drain stopped the others"
        elif action == "leave" and len(flows) > 1:
            del flows[index]
        total = reduce(add, flows.values())
        assert all(abs(flow.surplus) <= flow.error_buffer_steps for flow in flows.values())
        assert abs(total.surplus) <= total.error_buffer_steps + 1e-9
        assert all(flow.num_free_inserts == 0 for number, flow in flows.items() if number >= 2), "free in the middle"
    # Whatever has happened: writers that insert all they may are not left to wait for samples that never come.
    for index, flow in flows.items():
        while flow.may_insert(chunk):
            flow = flow.after_insert(chunk)
        flows[index] = flow
    taking = [flow for flow in flows.values() if not flow.draining]
    assert not taking or reduce(add, flows.values()).is_filled, "nobody is let sample, and nobody insert"
    assert all(flow.room_for_samples(1) for flow in taking)
