"""Losses of many steps, read back together: every reading waits for the device."""

import math
from typing import cast

import torch
from tensorboardX import SummaryWriter

from learner.train_step import StepResult
from upcycle.metrics import Metrics


class LossReport:
    """Means of the losses since the last report, as metrics and as TensorBoard scalars."""

    def __init__(self, metrics: Metrics, events: SummaryWriter, device: torch.device) -> None:
        self._metrics, self._events = metrics, events
        self._sums = torch.zeros(2, device=device)  # td, distillation
        self._steps = 0

    def add(self, result: StepResult) -> None:
        """Takes in one step; does not wait for the device."""
        self._sums += torch.stack((result.td_loss, result.distillation_loss))
        self._steps += 1

    def report(self, learner_steps: int, *, env_frames: int, multiplier: float, learning_rate: float) -> None:
        """Publishes the means, at least one step after the last report, and begins anew.

        Raises: FloatingPointError if a loss is not finite: nothing that is learnt from there on is worth keeping.
        """
        td_loss, distillation_loss = cast("list[float]", (self._sums / self._steps).tolist())
        self._sums.zero_()
        self._steps = 0
        values = {
            "learner_td_loss": td_loss,
            "learner_distillation_loss": distillation_loss,
            "learner_distillation_multiplier": multiplier,
            "learner_learning_rate": learning_rate,
        }
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(f"the loss is not finite at learner step {learner_steps}: {values}")
        for name, value in values.items():
            self._metrics.set(name, value)
            self._events.add_scalar(f"learner/{name.removeprefix('learner_')}", value, learner_steps)
        self._events.add_scalar("learner/env_frames", env_frames, learner_steps)
