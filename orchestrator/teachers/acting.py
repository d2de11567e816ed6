"""How a teacher acts, by its best action or by drawing from the probabilities that it gives, and the score of that."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from actors.rollout import QFunction
from teacher_store.records.record import Score
from teacher_store.teacher import Teacher
from upcycle.experience.chunks import Array
from upcycle.statistics import mean_interval


def way_of_acting(teacher: Teacher) -> Literal["greedy", "sampled"]:
    """Action values say which action is best; probabilities are the policy itself, as it was trained and scored."""
    return "sampled" if teacher.record.kind == "probabilities" else "greedy"


def acting(teacher: Teacher, *, seed: int) -> QFunction:
    """What the teacher's actions are the largest of, for whoever acts greedily.

    To log-probabilities noise is added whose maximum falls on each action with its probability.

    Args:
      seed: of that noise; the same calls get the same actions.
    Source: Gumbel 1954; the "Gumbel-max trick".
    """
    rng, sampled = np.random.default_rng(seed), way_of_acting(teacher) == "sampled"

    def values(observation: Array) -> Array:
        found: Array = teacher.values(torch.from_numpy(observation)).cpu().numpy()
        return found + rng.gumbel(size=found.shape) if sampled else found

    return values


def to_score(
    returns: Sequence[float] | Array, epsilon: float, actions: Literal["greedy", "sampled"] = "greedy"
) -> Score:
    """The score of whole games, with the bootstrap interval of its mean."""
    interval = mean_interval(returns)
    return Score(
        mean_return=round(sum(map(float, returns)) / len(returns), 6),
        episodes=len(returns),
        epsilon=epsilon,
        interval_low=interval.low,
        interval_high=interval.high,
        actions=actions,
    )
