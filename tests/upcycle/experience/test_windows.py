"""Trajectories in, exactly the right transitions out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.lanes import Episode, Transition, cut_chunks, expected_transition, make_lane
from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec
from upcycle.experience.windows import StackFill, View, Windows, gather_windows, valid_starts

SPEC = ChunkSpec(frame_shape=(2, 2), frame_dtype="uint8", num_actions=4, steps=8, history=3, lookahead=5)


def pad(spec: ChunkSpec, chunks: list[Chunk]) -> tuple[Array, dict[str, Array], Array]:
    """Chunks as the arena holds them; what lies past a chunk's rows is deliberately misleading."""
    frame = np.full((len(chunks), spec.rows, *spec.frame_shape), 255, spec.frame_dtype)
    columns = {name: np.ones((len(chunks), spec.rows), dtype) for name, dtype in COLUMNS.items()}
    for slot, chunk in enumerate(chunks):
        frame[slot, : chunk.num_rows] = chunk.frame
        for name in COLUMNS:
            columns[name][slot, : chunk.num_rows] = chunk.columns[name]
    return frame, columns, np.array([chunk.num_rows for chunk in chunks])


def assert_row_equals(windows: Windows, row: int, expected: Transition, view: View) -> None:
    assert windows.action[row] == expected.action
    assert windows.n_step_return[row] == pytest.approx(expected.n_step_return, abs=1e-5)
    assert windows.discount[row] == pytest.approx(expected.discount, abs=1e-7)
    np.testing.assert_array_equal(windows.frames[row, : view.stack], expected.observation)
    if expected.next_observation is not None:
        np.testing.assert_array_equal(windows.frames[row, view.n_step :], expected.next_observation)


def check_all_transitions(spec: ChunkSpec, lane: list[Episode], view: View) -> int:
    """Every transition of the lane is found once and is right, and nothing else is found. Returns how many."""
    chunks, origin = cut_chunks(spec, lane)
    frame, columns, num_rows = pad(spec, chunks)
    slots, offsets = np.nonzero(valid_starts(spec, columns, num_rows, view.n_step))
    found = [tuple(pair) for pair in origin[slots * spec.steps + offsets + spec.history].tolist()]
    expected: dict[Any, Transition] = {}
    for number, episode in enumerate(lane):
        for step in range(episode.length):
            transition = expected_transition(spec, lane, number, step, view)
            if transition is not None:
                expected[number, step] = transition
    assert sorted(found) == sorted(expected)
    windows = gather_windows(spec, frame, columns, slots, offsets, view)
    assert windows.frames.shape == (len(found), view.stack + view.n_step, *spec.frame_shape)
    assert (windows.action.dtype, windows.n_step_return.dtype, windows.discount.dtype) == (
        np.int64,
        np.float32,
        np.float32,
    )
    for row, key in enumerate(found):
        assert_row_equals(windows, row, expected[key], view)
    return len(found)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    episodes=st.lists(
        st.tuples(st.integers(1, 14), st.sampled_from(["terminated", "truncated"])), min_size=1, max_size=6
    ),
    last=st.tuples(st.integers(1, 20), st.sampled_from(["terminated", "truncated", "open"])),
    n_step=st.integers(1, 5),
    stack=st.integers(1, 4),
    stack_fill=st.sampled_from(["first_frame", "zeros"]),
    clip_rewards=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_transition_of_any_lane_is_found_once_and_is_right(
    episodes: list[tuple[int, str]],
    last: tuple[int, str],
    n_step: int,
    stack: int,
    stack_fill: StackFill,
    clip_rewards: bool,
    seed: int,
) -> None:
    lengths, endings = zip(*episodes, last, strict=True)
    lane = make_lane(SPEC, list(lengths), list(endings), seed=seed)
    view = View(n_step=n_step, stack=stack, gamma=0.9, clip_rewards=clip_rewards, stack_fill=stack_fill)
    check_all_transitions(SPEC, lane, view)


def test_counts_of_a_lane_worked_out_by_hand() -> None:
    # n = 3. Terminated after 5: all 5. Truncated after 5: only steps 0, 1, 2 (2 ends exactly at the final observation).
    # Cut off after 5: steps 0 and 1 have the state they bootstrap from.
    lane = make_lane(SPEC, [5, 5, 5], ["terminated", "truncated", "open"], seed=0)
    assert check_all_transitions(SPEC, lane, View(n_step=3, stack=2)) == 5 + 3 + 2


def test_truncation_bootstraps_and_termination_does_not() -> None:
    view = View(n_step=2, stack=1, gamma=0.5, clip_rewards=False)
    for ending, discount in (("truncated", 0.25), ("terminated", 0.0)):
        lane = make_lane(SPEC, [2], [ending], seed=1)
        frame, columns, num_rows = pad(SPEC, cut_chunks(SPEC, lane)[0])
        assert valid_starts(SPEC, columns, num_rows, 2)[0, 0]
        windows = gather_windows(SPEC, frame, columns, np.array([0]), np.array([0]), view)
        assert windows.discount[0] == discount
        assert windows.n_step_return[0] == lane[0].rewards[0] + 0.5 * lane[0].rewards[1]


def test_the_golden_three_step_return() -> None:
    """Rewards 1, 0, 1 at gamma 0.99."""
    lane = [replace(make_lane(SPEC, [5], ["terminated"], seed=0)[0], rewards=np.array([1, 0, 1, 0, 1], np.float32))]
    frame, columns, _ = pad(SPEC, cut_chunks(SPEC, lane)[0])
    windows = gather_windows(SPEC, frame, columns, np.zeros(2, int), np.array([0, 2]), View(n_step=3, stack=2))
    assert windows.n_step_return.tolist() == pytest.approx([1.9801, 1.9801])
    assert windows.discount.tolist() == pytest.approx([0.970299, 0.0])


def test_vector_observations_are_windows_too() -> None:
    spec = ChunkSpec(frame_shape=(3,), frame_dtype="float32", num_actions=2, steps=4, history=0, lookahead=2)
    lane = make_lane(spec, [3, 6], ["terminated", "truncated"], seed=2)
    assert check_all_transitions(spec, lane, View(n_step=2, stack=1)) == 3 + 5


def test_rows_without_priority_start_nothing() -> None:
    lane = make_lane(SPEC, [6], ["terminated"], seed=3)
    _, columns, num_rows = pad(SPEC, cut_chunks(SPEC, lane)[0])
    columns["priority"][0, SPEC.history + 2] = 0
    assert np.flatnonzero(valid_starts(SPEC, columns, num_rows, 1)[0]).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("view", "named"), [(View(n_step=6), "n_step 6"), (View(n_step=0), "n_step 0"), (View(stack=5), "stack 5")]
)
def test_a_view_that_chunks_cannot_give_is_refused(view: View, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        view.check(SPEC)
