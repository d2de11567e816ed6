"""How a teacher acts: by its best action, or by drawing from the probabilities that it gives."""

from typing import Literal

import numpy as np
import torch

from actors.rollout import QFunction
from teacher_store.teacher import Teacher
from upcycle.chunks import Array


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
