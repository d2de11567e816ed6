"""The limiter, walked step by step, and the promise that nobody waits for ever."""

from dataclasses import replace
from functools import reduce
from operator import add

from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.rate_limiter import Flow

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
