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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), num_shards=st.integers(1, 4))
def test_invariant_holds_and_somebody_can_always_go_on(data: st.DataObject, num_shards: int) -> None:
    chunk, batch = 8, 32
    flows = [replace(EMPTY, error_buffer_steps=data.draw(st.integers(chunk, 24))) for _ in range(num_shards)]
    for _ in range(data.draw(st.integers(1, 120))):
        total = reduce(add, flows)
        open_shards = [index for index, flow in enumerate(flows) if flow.may_insert(chunk)]
        assert open_shards or total.may_sample(batch), "inserts and samples wait for each other"
        if open_shards and (data.draw(st.booleans()) or not total.may_sample(batch)):
            index = data.draw(st.sampled_from(open_shards))
            flows[index] = flows[index].after_insert(chunk)
        else:
            # However unevenly the batch is drawn.
            first = data.draw(st.integers(0, num_shards - 1))
            flows[first] = flows[first].after_sample(batch)
        assert abs(reduce(add, flows).surplus) <= reduce(add, flows).error_buffer_steps
