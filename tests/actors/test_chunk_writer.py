"""The writer against streams that a script made up, with an independent account of what must be in the chunks."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.chunk_writer import ChunkWriter, td_priorities
from actors.lanes import LaneRows
from upcycle.experience.chunks import MAX_PRIORITY, Array, Chunk, ChunkSpec, encode_chunk
from upcycle.experience.windows import View

NUM_ACTIONS = 3


@dataclass
class ScriptedLane:
    """One lane whose episodes have given lengths and ends; every frame is unlike all others of its lane.

    Rows are (serial, reward of the previous action, terminated, truncated, first).
    """

    ends: list[tuple[int, bool]]
    serial: int = -1
    age: int = -1
    transitions: list[int] = field(default_factory=list[int])

    def next(self) -> tuple[int, float, bool, bool, bool]:
        self.serial += 1
        length, by_death = self.ends[0]
        if self.age == length:
            self.ends.append(self.ends.pop(0))
            self.age = -1
        self.age += 1
        if self.age == 0:
            return self.serial, 0.0, False, False, True
        self.transitions.append(self.serial - 1)
        over = self.age == self.ends[0][0]
        return self.serial, float(self.serial), over and by_death, over and not by_death, False


def batch(lanes: dict[int, ScriptedLane], chosen: list[int]) -> LaneRows:
    """The next rows of some lanes. A frame is (lane, serial)."""
    steps = [lanes[lane].next() for lane in chosen]
    serial, reward, terminated, truncated, first = (np.array(column) for column in zip(*steps, strict=True))
    frame = np.stack([np.array(chosen), serial], axis=1).astype(np.float32)
    ended = terminated | truncated
    lane = np.array(chosen, np.int32)
    return LaneRows(
        lane, frame[:, None], reward.astype(np.float32), terminated, truncated, first, ended, np.zeros_like(lane)
    )


def action_of(serial: Array) -> Array:
    return serial.astype(np.int64) % NUM_ACTIONS


episodes = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), history=st.integers(0, 3), steps=st.integers(1, 9), lookahead=st.integers(1, 4))
def test_every_transition_is_in_exactly_one_chunk(
    data: st.DataObject, history: int, steps: int, lookahead: int
) -> None:
    spec = ChunkSpec((2,), "float32", NUM_ACTIONS, steps=steps, history=history, lookahead=lookahead)
    num_lanes = data.draw(st.integers(1, 3))
    lanes = {lane: ScriptedLane(data.draw(episodes)) for lane in range(num_lanes)}
    writer, chunks = ChunkWriter(spec, num_lanes), list[Chunk]()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for _ in range(data.draw(st.integers(0, 60))):
        chosen = rng.permutation(num_lanes)[: rng.integers(1, num_lanes + 1)].tolist()
        rows = batch(lanes, chosen)
        chunks += writer.push(rows, action_of(rows.frame[:, 1]), policy_version=rows.frame[:, 1].astype(np.int64))
    full = len(chunks)
    chunks += writer.flush()

    seen: list[tuple[int, int]] = []
    next_start = dict.fromkeys(range(num_lanes), 0)
    for number, chunk in enumerate(chunks):
        encode_chunk(chunk, spec)  # it fits its specification
        assert (chunk.num_rows == spec.rows) or number >= full
        lane, start = check_rows(chunk, spec)
        assert start == next_start[lane] or (number >= full and (start - next_start[lane]) % steps == 0)
        next_start[lane] = start + steps  # of what is left at the end, chunks without a transition are left out
        usable = chunk.columns["priority"][history : history + steps] > 0
        seen += [(lane, start + int(offset)) for offset in np.flatnonzero(usable)]
        assert not chunk.columns["priority"][:history].any()
        assert not chunk.columns["priority"][history + steps :].any()
    expected = [(lane, serial) for lane, script in lanes.items() for serial in script.transitions]
    assert sorted(seen) == expected


def check_rows(chunk: Chunk, spec: ChunkSpec) -> tuple[int, int]:
    """Checks that the rows are consecutive rows of one lane; returns (lane, serial of the first usable row)."""
    columns = chunk.columns
    lane, serial = int(chunk.frame[spec.history, 0]), chunk.frame[:, 1].astype(int)
    start = int(serial[spec.history])
    real = np.arange(chunk.num_rows) >= max(spec.history - start, 0)
    assert (chunk.frame[real, 0] == lane).all()
    np.testing.assert_array_equal(serial[real], np.arange(chunk.num_rows)[real] + start - spec.history)
    np.testing.assert_array_equal(columns["action"][real], action_of(serial[real]))
    np.testing.assert_array_equal(columns["policy_version"][real], serial[real])
    assert not chunk.frame[~real].any()
    assert not any(column[~real].any() for column in columns.values())
    ended = columns["terminated"] | columns["truncated"]
    rewarded = columns["reward"] != 0
    np.testing.assert_array_equal(columns["reward"][rewarded], serial[rewarded] + 1)
    opens = np.zeros_like(ended)  # an episode opens two rows after the step that ended the one before
    opens[2:] = ended[:-2]
    np.testing.assert_array_equal(columns["first"][2:] & real[:-2], opens[2:])
    return lane, start


def test_the_first_chunk_begins_with_empty_history() -> None:
    spec = ChunkSpec((2,), "float32", NUM_ACTIONS, steps=4, history=3, lookahead=2)
    lanes, writer = {0: ScriptedLane([(50, True)])}, ChunkWriter(spec, 1)
    chunks: list[Chunk] = []
    while not chunks:
        rows = batch(lanes, [0])
        chunks = writer.push(rows, action_of(rows.frame[:, 1]))
    first = chunks[0].columns["first"]
    assert first.tolist() == [False, False, False, True, *[False] * 5]
    assert chunks[0].num_transitions(spec) == 4
    assert chunks[0].columns["reward"].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]


def reference_priority(t: int, columns: dict[str, Array], view: View) -> float:
    """The definition, one row at a time."""
    target = 0.0
    for k in range(view.n_step):
        if t + k >= len(columns["reward"]):
            return MAX_PRIORITY
        reward = float(columns["reward"][t + k])
        target += view.gamma**k * (min(max(reward, -1.0), 1.0) if view.clip_rewards else reward)
        horizon = k + 1
        if columns["terminated"][t + k]:
            return abs(target - float(columns["q_taken"][t])) + 1e-6
        if columns["truncated"][t + k] or horizon == view.n_step:
            if t + horizon >= len(columns["q_max"]):
                return MAX_PRIORITY
            target += view.gamma**horizon * float(columns["q_max"][t + horizon])
            return abs(target - float(columns["q_taken"][t])) + 1e-6
    raise AssertionError("a horizon is 1 at least")


@settings(max_examples=80, deadline=None)
@given(rows=st.integers(1, 12), n_step=st.integers(1, 5), clip_rewards=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_priorities_are_n_step_errors(rows: int, n_step: int, clip_rewards: bool, seed: int) -> None:
    rng, view = np.random.default_rng(seed), View(n_step=n_step, gamma=0.9, clip_rewards=clip_rewards)
    end = rng.choice(3, size=rows, p=[0.6, 0.2, 0.2])
    columns = {
        "reward": rng.normal(0, 2, rows).astype(np.float32),
        "terminated": end == 1,
        "truncated": end == 2,
        "q_taken": rng.normal(size=rows).astype(np.float32),
        "q_max": rng.normal(size=rows).astype(np.float32),
    }
    expected = [reference_priority(t, columns, view) for t in range(rows)]
    np.testing.assert_allclose(td_priorities(**columns, view=view), expected, rtol=1e-6)


def test_rated_chunks_carry_the_errors_of_their_own_rows() -> None:
    spec = ChunkSpec((2,), "float32", NUM_ACTIONS, steps=5, history=1, lookahead=2)
    view = View(n_step=2, stack=1, gamma=0.5, clip_rewards=True)
    lanes, writer, rng = (
        {0: ScriptedLane([(4, True), (3, False)])},
        ChunkWriter(spec, 1, rating=view),
        np.random.default_rng(0),
    )
    q_values, streams, chunks = list[Array](), list[LaneRows](), list[Chunk]()
    for _ in range(40):
        rows = batch(lanes, [0])
        q_values.append(rng.normal(size=NUM_ACTIONS).astype(np.float32))
        streams.append(rows)
        chunks += writer.push(rows, action_of(rows.frame[:, 1]), q_values=q_values[-1][None])
    columns = {
        name: np.concatenate([getattr(rows, name) for rows in streams[1:]])
        for name in ("reward", "terminated", "truncated")
    } | {
        "q_taken": np.array([q[t % NUM_ACTIONS] for t, q in enumerate(q_values)]),
        "q_max": np.array([q.max() for q in q_values]),
    }
    assert len(chunks) > 5
    for number, chunk in enumerate(chunks):
        for offset in range(spec.steps):
            t, priority = number * spec.steps + offset, chunk.columns["priority"][spec.history + offset]
            is_final = t > 0 and bool(streams[t].ended[0])
            assert priority == pytest.approx(0.0 if is_final else reference_priority(t, columns, view), rel=1e-5)


def test_open_tails_are_rated_as_unknown() -> None:
    spec = ChunkSpec((2,), "float32", NUM_ACTIONS, steps=8, history=0, lookahead=3)
    view = View(n_step=3, stack=1)
    lanes, writer = {0: ScriptedLane([(50, True)])}, ChunkWriter(spec, 1, rating=view)
    for _ in range(6):
        rows = batch(lanes, [0])
        assert not writer.push(rows, action_of(rows.frame[:, 1]), q_values=np.zeros((1, NUM_ACTIONS), np.float32))
    (tail,) = writer.flush()
    priority = tail.columns["priority"]
    assert np.isinf(priority).tolist() == [False, False, False, True, True, False]
    assert (priority > 0).tolist() == [True] * 5 + [False]
    assert writer.flush() == []


def test_q_values_that_are_not_finite_rate_nothing() -> None:
    rows = np.zeros(3, np.float32)
    ends = np.zeros(3, bool)
    priorities = td_priorities(rows, ends, ends, rows, np.array([0, np.nan, np.inf]), view=View(n_step=1))
    assert priorities.tolist() == [MAX_PRIORITY] * 3
