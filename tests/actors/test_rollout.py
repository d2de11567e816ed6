import numpy as np
import pytest

from actors.envs import chunk_spec
from actors.rollout import collect_chunks, play_episodes, random_score
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array, decode_chunk, encode_chunk
from upcycle.runs.runtime import Games, StopSignal

CART_POLE = EnvConfig(task="CartPole-v1")
CATCH = EnvConfig(task="Catch-v0")


def indifferent(observation: Array) -> Array:
    return np.zeros((len(observation), 2), np.float32)


def balance(observation: Array) -> Array:
    """Pushes the cart under the falling pole: keeps it up for the whole episode, most of the time."""
    lean = observation[:, 0, 2] + observation[:, 0, 3]
    return np.stack([-lean, lean], axis=1)


def catch(observation: Array) -> Array:
    """Moves the paddle under the ball: catches every one."""
    board = observation.reshape(len(observation), 10, 5)
    ball, paddle = board[:, :-1].max(axis=1).argmax(axis=1), board[:, -1].argmax(axis=1)
    return -np.abs(ball[:, None] - paddle[:, None] - np.array([-1, 0, 1]))


def test_a_perfect_player_of_catch_catches_all() -> None:
    results = play_episodes(CATCH, catch, episodes=20, epsilon=0.0, lanes=3, seed=0)
    assert results.complete
    assert results.returns.tolist() == [1.0] * 20
    assert results.lengths.tolist() == [9] * 20


def test_returns_and_lengths_are_those_of_whole_episodes() -> None:
    results = play_episodes(CART_POLE, balance, episodes=5, epsilon=0.0, lanes=8, seed=0)
    np.testing.assert_array_equal(results.returns, results.lengths)  # one point a step
    assert results.returns.max() == 500
    assert results.mean_return == results.returns.mean()


def test_the_same_arguments_play_the_same_episodes() -> None:
    first, second, other = (
        play_episodes(CART_POLE, indifferent, episodes=30, epsilon=1.0, lanes=4, seed=seed).returns
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.slow
def test_many_lanes_are_not_biased_to_short_episodes() -> None:
    """With a lane per few episodes, "first to finish" would drop the long ones: their mean is some 30 % lower."""
    few_lanes = play_episodes(CART_POLE, indifferent, episodes=1000, epsilon=1.0, lanes=2, seed=3).returns
    many = [
        play_episodes(CART_POLE, indifferent, episodes=60, epsilon=1.0, lanes=40, seed=s).mean_return for s in range(25)
    ]
    error = np.hypot(few_lanes.std() / np.sqrt(len(few_lanes)), few_lanes.std() / np.sqrt(25 * 60))
    assert abs(np.mean(many) - few_lanes.mean()) < 4 * error


def test_q_values_are_asked_only_for_episodes_that_count() -> None:
    asked: list[int] = []

    def counting(observation: Array) -> Array:
        asked.append(len(observation))
        return indifferent(observation)

    results = play_episodes(CART_POLE, counting, episodes=4, epsilon=1.0, lanes=4, seed=0)
    assert sum(asked) == results.lengths.sum()


def test_games_say_how_many_have_ended_and_the_mean_so_far() -> None:
    stop, seen = StopSignal(), list[Games]()

    def on_games(games: Games) -> None:
        seen.append(games)
        if games.ended >= 3:
            stop.set()

    results = play_episodes(
        CART_POLE, indifferent, episodes=10, epsilon=1.0, lanes=2, seed=0, stop=stop, on_games=on_games
    )
    assert not results.complete
    assert 3 <= len(results.returns) < 10
    assert seen[0] == Games(0, 10, 0, None)
    ended = [games.ended for games in seen]
    assert ended == sorted(ended)
    assert {games.of for games in seen} == {10}
    assert seen[-1].ended == len(results.returns)
    assert seen[-1].mean_return == pytest.approx(results.mean_return)
    assert seen[-1].env_frames >= results.lengths.sum()
    assert np.isnan(play_episodes(CATCH, catch, episodes=1, epsilon=0, lanes=1, seed=0, stop=stop).mean_return)


def test_long_games_show_that_play_goes_on() -> None:
    seen = list[Games]()
    results = play_episodes(CART_POLE, balance, episodes=2, epsilon=0.0, lanes=2, seed=0, on_games=seen.append)
    before = [games.env_frames for games in seen if games.ended == 0]
    assert len(before) >= 3
    assert before == sorted(set(before))
    assert seen[-1].mean_return == pytest.approx(results.mean_return)


def test_evaluation_plays_whole_games_whatever_training_does() -> None:
    env = EnvConfig(task="Breakout-v5", frame_size=24, frame_skip=8, noop_max=1, episodic_life=True)

    def noop(observation: Array) -> Array:
        return np.tile(np.array([1, 0, 0, 0], np.float32), (len(observation), 1))

    short = env.model_copy(update={"max_episode_steps": 40})
    whole = play_episodes(short, noop, episodes=2, epsilon=0.5, lanes=2, seed=0)
    assert whole.lengths.tolist() == [40, 40]


def test_returns_are_raw_though_learning_clips_rewards() -> None:
    env = EnvConfig(task="MsPacman-v5", frame_size=24, noop_max=1, max_episode_steps=150)
    assert env.clip_rewards

    def no_preference(observation: Array) -> Array:
        return np.zeros((len(observation), 9), np.float32)

    returns = play_episodes(env, no_preference, episodes=2, epsilon=1.0, lanes=2, seed=0).returns
    assert (returns >= 50).all()  # clipped, a pill of ten points would count 1
    assert (returns % 10 == 0).all()


def test_collected_chunks_hold_the_frames_asked_for() -> None:
    env = EnvConfig(task="Pong-v5", frame_size=24, frame_skip=8, noop_max=1, max_episode_steps=50)
    spec = chunk_spec(env, chunk_steps=16, n_step=3)

    def up(observation: Array) -> Array:
        return np.tile(np.array([0, 0, 1, 0, 0, 0], np.float32), (len(observation), 1))

    chunks = list(collect_chunks(env, up, spec, frames=4000, epsilons=(0.0, 1.0), lanes=4, seed=0))
    transitions = sum(chunk.num_transitions(spec) for chunk in chunks)
    assert 4000 <= transitions * env.frame_skip <= 4000 + 4 * env.frame_skip
    decoded = [decode_chunk(encode_chunk(chunk, spec), spec) for chunk in chunks]
    greedy = [bool((chunk.columns["action"][chunk.columns["priority"] > 0] == 2).all()) for chunk in decoded]
    assert sum(greedy) == pytest.approx(len(chunks) / 2, abs=4)  # two lanes never explore, two always do


def test_stopped_collecting_still_yields_what_was_played() -> None:
    spec, stop = chunk_spec(CART_POLE, chunk_steps=8, n_step=1), StopSignal()
    transitions = 0
    for chunk in collect_chunks(
        CART_POLE, indifferent, spec, frames=10**9, epsilons=(1.0,), lanes=3, seed=0, stop=stop
    ):
        transitions += chunk.num_transitions(spec)
        if transitions > 100:
            stop.set()
    assert transitions > 100


def test_random_scores() -> None:
    assert random_score(CART_POLE, 60, 0) == pytest.approx(22, abs=6)
    assert -1 < random_score(CATCH, 60, 0) < 0
