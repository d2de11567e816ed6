"""Names of actions, against EnvPool: how many there are, and what they do."""

import warnings
from typing import Any

import envpool
import numpy as np
import pytest
from envpool.atari.registration import atari_game_list

from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.networks.action_names import action_names


def task_of(game: str) -> str:
    return "".join(word.capitalize() for word in game.split("_")) + "-v5"


def names(task: str, *, full: bool = False) -> tuple[str, ...]:
    return action_names(EnvConfig(task=task, full_action_space=full))


def number_of_actions(task: str, *, full: bool = False) -> int:
    spec: Any = envpool.make_spec(task, full_action_space=full)
    return int(spec.action_array_spec["action"].maximum) + 1


def test_every_game_of_envpool_has_names() -> None:
    sets = {names(task_of(game)) for game in atari_game_list}
    assert () not in sets
    assert len(sets) == 28
    assert len(atari_game_list) == 104


@pytest.mark.parametrize("task", ["Alien-v5", "Assault-v5", "Backgammon-v5", "JourneyEscape-v5", "Turmoil-v5"])
def test_there_are_as_many_names_as_actions(task: str) -> None:
    assert len(names(task)) == number_of_actions(task)


@pytest.mark.parametrize(("task", "number"), [("Pong-v5", 18), ("Skiing-v5", 9)])
def test_the_full_set_is_that_of_the_joystick(task: str, number: int) -> None:
    assert len(names(task, full=True)) == number_of_actions(task, full=True) == number
    assert set(names(task)) < set(names(task, full=True))


def test_names_are_those_of_ale_in_its_order() -> None:
    assert names("Pong-v5") == ("noop", "fire", "right", "left", "right + fire", "left + fire")
    assert names("Freeway-v5") == ("noop", "up", "down")
    assert names("Seaquest-v5") == names("Seaquest-v5", full=True) == names("Pong-v5", full=True)
    assert names("CartPole-v1") == ("push left", "push right")
    assert names("Catch-v0") == ()


@pytest.mark.parametrize("task", ["Pong-v5", "Asteroids-v5"])
def test_actions_of_one_name_do_the_same_in_the_minimal_and_in_the_full_set(task: str) -> None:
    def memory(full: bool, actions: list[str]) -> Array:
        """The console's memory after each step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pool: Any = envpool.make(
                task, env_type="gymnasium", num_envs=1, num_threads=1, seed=0, noop_max=1, full_action_space=full
            )
            pool.reset()
        numbers = [names(task, full=full).index(action) for action in actions]
        return np.array([pool.step(np.array([number], np.int32))[4]["ram"][0] for number in numbers])

    actions = np.random.default_rng(0).choice(names(task), 100).tolist()
    minimal = memory(False, actions)
    np.testing.assert_array_equal(minimal, memory(True, actions))
    rotated = names(task)[1:] + names(task)[:1]
    others = [rotated[names(task).index(action)] for action in actions]
    assert (memory(False, others) != minimal).any(), "whatever is pressed"
