"""Environment frames from what the shards say, over restarts of theirs and of the learner's."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.frame_counter import FrameCounter
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats

SKIP = 4


def said(incarnation: int, inserted: int, *, before: int | None = None) -> TableStats:
    """What a shard says of its table."""
    flow = Flow(None, 1, 1, num_free_inserts=inserted)
    return TableStats(flow, incarnation=incarnation, num_inserted_before=before)


def test_a_restarted_shard_without_a_log_loses_nothing_that_was_heard_of() -> None:
    frames = FrameCounter(frame_skip=SKIP)
    frames.observe({0: said(1, 100), 1: said(2, 50)})
    frames.observe({0: said(1, 130), 1: said(2, 50)})
    assert frames.total == SKIP * 180
    frames.observe({0: said(3, 10)})  # shard 0 restarted, shard 1 cannot be reached
    frames.observe({0: said(3, 10), 1: said(2, 60)})
    assert frames.total == SKIP * (180 + 10 + 10)


def test_what_came_before_the_learner_looked_after_a_resume_counts_in_full() -> None:
    frames = FrameCounter(frame_skip=1)
    frames.observe({0: said(1, 491)})
    resumed = FrameCounter(frame_skip=1)
    resumed.load_state_dict(frames.state_dict())
    resumed.observe({0: said(2, 765)})  # more than it had before, but all of it is new
    assert resumed.total == 491 + 765


def test_replies_that_overtake_each_other_count_nothing_twice() -> None:
    frames = FrameCounter(frame_skip=1)
    for inserted in (10, 30, 20):
        frames.observe({0: said(1, inserted, before=5)})
    assert frames.total == 35


def test_a_checkpoint_of_an_older_version_goes_on_with_its_total() -> None:
    old: dict[str, Any] = {"total": 400, "counters": {0: 60, 1: 40}}
    frames = FrameCounter(frame_skip=SKIP)
    frames.load_state_dict(old)
    frames.observe({0: said(1, 7)})
    assert frames.total == 400 + SKIP * 7
    frames.adopt({0: 70, 1: 45})  # where there are logs, they know
    frames.observe({0: said(1, 7, before=70)})
    assert frames.total == SKIP * 122


@dataclass
class Shard:
    """A shard with a log: what the log holds, and what this incarnation has inserted."""

    incarnation: int
    logged: int = 0
    inserted: int = 0

    def says(self) -> TableStats:
        return said(self.incarnation, self.inserted, before=self.logged - self.inserted)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, 2), st.integers(1, 90)),
        st.tuples(st.just("restart"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("look"), st.integers(0, 7), st.just(0)),  # a set of shards that answer
        st.tuples(st.just("checkpoint"), st.just(0), st.just(0)),
        st.tuples(st.just("learner"), st.just(0), st.just(0)),  # dies, and goes on from its checkpoint
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(events=EVENTS)
def test_the_counter_equals_the_logs_whoever_dies_and_whoever_looked_when(
    events: list[tuple[str, int, int]],
) -> None:
    shards = [Shard(incarnation) for incarnation in (1, 2, 3)]
    frames, incarnation = FrameCounter(frame_skip=SKIP), 3
    saved: dict[str, Any] | None = None
    for kind, number, count in events:
        if kind == "insert":
            shards[number].logged += count
            shards[number].inserted += count
        elif kind == "restart":
            incarnation += 1
            shards[number].incarnation, shards[number].inserted = incarnation, 0
        elif kind == "look":
            frames.observe({index: shard.says() for index, shard in enumerate(shards) if number >> index & 1})
        elif kind == "checkpoint":
            saved = frames.state_dict()
        else:
            frames = FrameCounter(frame_skip=SKIP)
            if saved is not None:
                frames.load_state_dict(saved)
    *staying, left = shards
    frames.adopt({index: shard.logged for index, shard in enumerate(shards)})  # the last one has left since
    frames.observe({index: shard.says() for index, shard in enumerate(staying)})
    assert frames.total == SKIP * (sum(shard.logged for shard in staying) + left.logged)
    staying[0].logged += 11
    staying[0].inserted += 11
    frames.observe({0: staying[0].says()})
    assert frames.total == SKIP * sum(shard.logged for shard in shards)
