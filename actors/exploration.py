"""How an actor chooses its actions: epsilon-greedily, or as an extension does."""

from typing import Any, Protocol

import numpy as np

from actors.policy import epsilon_greedy
from upcycle.config.run import ActorsConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.extensions import load_extension

_FIELD = "actors.exploration"


class Exploration(Protocol):
    """Chooses actions from Q values."""

    def choose(self, q_values: Array, lane: Array, first: Array, *, epsilon: float) -> Array:
        """Actions, int [M].

        Args:
          q_values: float32 [M, A], one row of each of M lanes.
          lane: int [M], distinct lane ids.
          first: bool [M], rows that open an episode.
          epsilon: what the configuration's schedule says now.
        """
        ...


class EpsilonGreedy:
    """With probability epsilon a uniform action, else the best one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def choose(self, q_values: Array, lane: Array, first: Array, *, epsilon: float) -> Array:
        """See `Exploration`."""
        return epsilon_greedy(q_values, epsilon, self._rng)


class CustomExploration:
    """The exploration that `actors.exploration` names; what it chooses is checked.

    Args:
      config: of the actors.
      num_actions: size of the action set.
      seed: given to the extension.
    Raises: UserError if it cannot be loaded or fails.
    """

    def __init__(self, config: ActorsConfig, *, num_actions: int, seed: int) -> None:
        self._reference, self._num_actions = config.exploration, num_actions
        build: Any = load_extension("exploration", config.exploration, field=_FIELD).value
        try:
            self._inner: Exploration = build(
                lanes=config.lanes, num_actions=num_actions, seed=seed, **config.exploration_options
            )
        except Exception as error:  # foreign code may raise anything
            raise self._wrong(f"raised {type(error).__name__}: {error}") from error

    def choose(self, q_values: Array, lane: Array, first: Array, *, epsilon: float) -> Array:
        """See `Exploration`. Raises: UserError if the extension fails or chooses no actions."""
        try:
            actions = np.asarray(self._inner.choose(q_values, lane, first, epsilon=epsilon))
        except Exception as error:  # foreign code may raise anything
            raise self._wrong(f"raised {type(error).__name__}: {error}") from error
        if actions.shape != lane.shape or actions.dtype.kind not in "iu":
            raise self._wrong(f"chose {actions.dtype} {list(actions.shape)} instead of integers {list(lane.shape)}")
        if len(actions) and not 0 <= int(actions.min()) <= int(actions.max()) < self._num_actions:
            raise self._wrong(f"chose an action outside [0, {self._num_actions})")
        return actions.astype(np.int64)  # a copy: a guide writes into it

    def _wrong(self, problem: str) -> UserError:
        return UserError(_FIELD, self._reference, problem, "mend it, or actors.exploration_options")


def make_exploration(config: ActorsConfig, *, num_actions: int, seed: int) -> Exploration:
    """The exploration of an actor; the same seed gives the same draws."""
    if config.exploration:
        return CustomExploration(config, num_actions=num_actions, seed=seed)
    return EpsilonGreedy(np.random.default_rng(seed))
