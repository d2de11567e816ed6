import numpy as np
import pytest

import upcycle
from replay_service.table.types import ReplayTimeout
from upcycle.experience.chunks import Array


def frame(number: int) -> Array:
    return np.full(3, number, np.float32)


def transition(number: int, *, terminated: bool = False, truncated: bool = False) -> upcycle.Transition:
    """Its frame, reward and action tell which one it is."""
    return upcycle.Transition(
        frame(number), number % 2, float(number), frame(number + 1), terminated=terminated, truncated=truncated
    )


def test_what_is_added_is_sampled():
    with (
        upcycle.start_replay(frame_shape=(3,), num_actions=2, max_stack=2, max_n_step=2, chunk_steps=8) as server,
        server.client(seed=0) as replay,
    ):
        for number in range(20):
            replay.add(transition(number, terminated=number == 9, truncated=number == 14))
        replay.flush()
        assert replay.stats().num_transitions == 20
        batch = replay.sample(500, n_step=2, gamma=0.5).transitions
    number = batch.observation[:, -1, 0].astype(int)
    # Of the windows of two steps that a time limit cuts short there is none: 14. The last one has no second step: 19.
    assert set(number) == set(range(20)) - {14, 19}
    np.testing.assert_array_equal(batch.action, number % 2)
    opens = np.isin(number, (0, 10, 15))
    np.testing.assert_array_equal(batch.observation[:, 0, 0], np.where(opens, number, number - 1))
    ends = number == 9
    np.testing.assert_allclose(batch.n_step_return, np.where(ends, number, number + 0.5 * (number + 1)))
    np.testing.assert_allclose(batch.discount, np.where(np.isin(number, (8, 9)), 0.0, 0.25))
    goes_on = batch.discount > 0
    np.testing.assert_array_equal(batch.next_observation[goes_on, -1, 0], number[goes_on] + 2)


def test_full_chunks_are_sampled_before_a_flush_and_lanes_do_not_mix():
    with (
        upcycle.start_replay(frame_shape=(3,), num_actions=2, max_stack=2, chunk_steps=8) as server,
        upcycle.connect_replay(server.address, server.spec, lanes=2) as replay,
    ):
        for number in range(12):
            for lane in range(2):
                replay.add(transition(number + 100 * lane), lane=lane)
        assert replay.stats().num_transitions == 16
        batch = replay.sample(200).transitions
        assert np.abs(np.diff(batch.observation[:, :, 0], axis=1)).max() == 1


def test_priorities_decide_what_is_drawn():
    with (
        upcycle.start_replay(frame_shape=(3,), num_actions=2, sampler="proportional", priority_exponent=1.0) as server,
        server.client() as replay,
    ):
        for number in range(10):
            replay.add(transition(number))
        replay.flush()
        drawn = replay.sample(400)
        number = drawn.transitions.observation[:, 0, 0]
        replay.update_priorities(drawn.keys, np.where(number == 4, 1e6, 1e-6))
        again = replay.sample(50, importance_sampling_exponent=1.0)
        assert set(again.transitions.observation[:, 0, 0]) == {4.0}
        assert again.probabilities.min() > 0.9
        assert again.importance_weights.max() == 1.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (upcycle.Transition(frame(0), 2, 0.0, frame(1)), "action 2 is outside"),
        (upcycle.Transition(frame(0), 0, 0.0, np.zeros(3)), "next_frame is float64"),
        (upcycle.Transition(np.zeros(4, np.float32), 0, 0.0, frame(1)), r"frame is float32 \(4,\)"),
    ],
)
def test_a_transition_that_does_not_fit_is_refused(wrong: upcycle.Transition, words: str):
    with upcycle.start_replay(frame_shape=(3,), num_actions=2) as server, server.client() as replay:
        with pytest.raises(ValueError, match=words):
            replay.add(wrong)
        replay.add(transition(0))


def test_an_empty_table_times_out():
    with (
        upcycle.start_replay(frame_shape=(3,), num_actions=2) as server,
        server.client() as replay,
        pytest.raises(ReplayTimeout),
    ):
        replay.sample(1, timeout_seconds=0.1)
