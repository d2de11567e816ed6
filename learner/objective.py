"""The objective of a phase: its loss terms, and what they need of the teachers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from learner.loss_terms import CustomTerm, custom_terms
from teacher_store.teacher import Teacher
from upcycle.config.run import (
    CqlConfig,
    DistillationConfig,
    LearnerConfig,
    MarginConfig,
    PhaseName,
    RunConfig,
    TeacherConfig,
)
from upcycle.experience.chunks import Array
from upcycle.runs.run_folder import Record

TERMS: Final = ("td_loss", "distillation_loss", "margin_loss", "cql_loss", "teacher_entropy")
"""What a step reports, in this order, before the configuration's own terms; terms that a phase lacks are 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """The loss of a phase: td + m x (distillation + margin) + conservative, each with its coefficient.

    Attributes:
      cql: None in phases without that term.
      teacher: how several teachers are combined; None without one.
      teacher_weights: of their mixture, float32 [K], summing to 1; None without a teacher.
      temperatures: of the softmax that makes each teacher's policy of its values, float32 [K, 1]; None if it is
        `distillation.temperature` of all.
      custom: loss terms of the configuration's own.
    """

    learner: LearnerConfig
    distillation: DistillationConfig
    margin: MarginConfig
    cql: CqlConfig | None = None
    teacher: TeacherConfig | None = None
    teacher_weights: Tensor | None = None
    temperatures: Tensor | None = None
    custom: tuple[CustomTerm, ...] = ()

    @classmethod
    def of_phase(
        cls,
        config: RunConfig,
        phase: PhaseName,
        teacher_weights: Tensor | None,
        temperatures: Tensor | None = None,
    ) -> "Objective":
        """What a run's configuration says about one of its phases."""
        return cls(
            learner=config.learner,
            distillation=config.distillation,
            margin=config.margin,
            cql=config.cql if config.cql.coefficient > 0 and phase in config.cql.phases else None,
            teacher=config.teacher,
            teacher_weights=teacher_weights,
            temperatures=temperatures,
            custom=custom_terms(config, phase),
        )

    @property
    def imitates(self) -> bool:
        """Whether any term needs the teachers' values, as long as the multiplier is above 0."""
        return self.teacher_weights is not None and (self.distillation.coefficient > 0 or self.margin.coefficient > 0)


def score_weights(scores: Array, random_score: float) -> Array:
    """Weights of a mixture of teachers: their scores above random play's, float32 [K], summing to 1.

    A teacher not above random gets no say; if none is, all have the same.

    Args:
      scores: mean raw returns, [K].
    Source: kickstarting with several teachers (Schmitt et al. 2018, section 3.2) leaves the weights open; measured
      scores are what we have.
    """
    above = np.maximum(np.asarray(scores, np.float64) - random_score, 0.0)
    weights = above / above.sum() if above.sum() > 0 else np.full(len(above), 1.0 / len(above))
    return weights.astype(np.float32)


def weights_of(teachers: Sequence[Teacher], manifest: Record, device: torch.device) -> Tensor | None:
    """`score_weights` of a run's teachers on the learner's device; None without any. One teacher needs no score."""
    if len(teachers) < 2:
        return torch.ones(1, device=device) if teachers else None
    scores = [teacher.record.score for teacher in teachers]
    assert all(scores), "a plan scores every teacher"
    means = np.array([score.mean_return for score in scores if score is not None])
    return torch.from_numpy(score_weights(means, float(manifest["random_score"]))).to(device)


def temperatures_of(teachers: Sequence[Teacher], temperature: float, device: torch.device) -> Tensor | None:
    """`Objective.temperatures`: 1 of a teacher that gives its policy itself, else `temperature`."""
    own = [1.0 if teacher.record.kind == "probabilities" else temperature for teacher in teachers]
    return None if set(own) <= {temperature} else torch.tensor(own, device=device).unsqueeze(1)
