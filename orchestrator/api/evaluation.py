"""Whole games with a policy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from actors.rollout import QFunction, play_episodes
from orchestrator.api.running import Run
from orchestrator.api.teachers import Teacher
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.runs.runtime import OnGames
from upcycle.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from upcycle.runs.run_folder import RunFolder


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Scores of whole games, in the order in which they started.

    Attributes:
      returns: raw, float64 [episodes].
      lengths: agent steps, int64 [episodes].
    """

    returns: Array
    lengths: Array

    @property
    def mean_return(self) -> float:
        """Mean raw return."""
        return float(self.returns.mean())

    @property
    def interval(self) -> Interval:
        """95 % bootstrap interval of the mean."""
        return mean_interval(self.returns)


def evaluate(
    policy: Teacher | Run | Callable[[Array], Array],
    *,
    env: EnvConfig | None = None,
    episodes: int = 30,
    epsilon: float = 0.001,
    lanes: int = 5,
    seed: int = 0,
    policy_version: int | None = None,
    on_games: OnGames | None = None,
) -> Evaluation:
    """Plays whole games (a lost life ends nothing) and writes nothing.

    Args:
      policy: a teacher, a run, or a function from observations [B, stack, *frame_shape] to values [B, A].
      env: environment and protocol; needed for a function, by default that of the teacher or run.
      episodes: whole games to play.
      epsilon: exploration.
      lanes: environments side by side.
      seed: of environments and exploration.
      policy_version: of a run; by default the version that was evaluated best.
      on_games: called with the games so far.
    Raises: UserError if the run has no weights yet, or the environment is unknown; ValueError without an environment.
    """
    if isinstance(policy, Teacher):
        env, act = env or policy.record.env, _acting(policy, seed)
    elif isinstance(policy, Run):
        from upcycle.runs.run_folder import RunFolder

        folder = RunFolder.open(policy.path)
        env, act = env or folder.config.env, _of_run(folder, policy_version)
    else:
        act = policy
    if env is None:
        raise ValueError("env: a function does not say which environment it plays; give an EnvConfig")
    results = play_episodes(env, act, episodes=episodes, epsilon=epsilon, lanes=lanes, seed=seed, on_games=on_games)
    return Evaluation(results.returns, np.asarray(results.lengths))


def _acting(teacher: Teacher, seed: int) -> QFunction:
    """Values whose largest is the action: a teacher that gives probabilities draws from them."""
    rng, sampled = np.random.default_rng([seed, 1]), teacher.record.kind == "probabilities"

    def values(observation: Array) -> Array:
        found = teacher.values(observation)
        return found + rng.gumbel(size=found.shape) if sampled else found

    return values


def _of_run(folder: "RunFolder", policy_version: int | None) -> QFunction:
    from actors.envs import env_spec
    from actors.policy import QPolicy
    from orchestrator.teachers.publishing import find_weights

    config = folder.config
    policy = QPolicy(config.network, env_spec(config.env))
    policy.load(find_weights(folder, policy_version)[1].tensors)
    return policy.q_values
