"""Mean losses of many steps, read back together, since every read waits for the device."""

import math
from collections.abc import Sequence
from typing import Final, cast

import structlog
import torch
from tensorboardX import SummaryWriter

from learner.objective import TERMS
from learner.ranks import Order
from learner.train_step import StepResult
from upcycle.runs.metrics import Metrics

_log = structlog.get_logger(__name__)

_INDIFFERENT: Final = 0.95  # of ln A: such a flat teacher policy carries hardly any information


class LossReport:
    """Means of the losses since the last report, as metrics and TensorBoard scalars.

    Args:
      custom: names of the configuration's own terms, which only TensorBoard shows.
    """

    def __init__(
        self,
        metrics: Metrics,
        events: SummaryWriter,
        device: torch.device,
        *,
        num_actions: int,
        custom: Sequence[str] = (),
    ) -> None:
        self._metrics, self._events, self._most_entropy = metrics, events, math.log(num_actions)
        self._names = (*TERMS, *(f"loss_terms/{name}" for name in custom))
        self._sums = torch.zeros(len(self._names), device=device)
        self._steps = 0
        self._warned = False

    def add(self, result: StepResult) -> None:
        """Adds one step without waiting for the device."""
        self._sums += result.terms
        self._steps += 1

    def reset(self) -> None:
        """Discards the steps since the last report."""
        self._sums.zero_()
        self._steps = 0

    def report(self, learner_steps: int, env_frames: int, order: Order) -> str:
        """Publishes the means of the steps since the last report, of which there must be one, and resets.

        Returns: which values are not finite, and then nothing is published; empty if all are finite.
        """
        means = cast("list[float]", (self._sums / self._steps).tolist())
        self.reset()
        values = dict(zip(self._names, means, strict=True)) | {
            "distillation_multiplier": order.multiplier,
            "learning_rate": order.learning_rate,
        }
        if not all(map(math.isfinite, values.values())):
            spoilt = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
            return f"the loss was not finite ({spoilt})"
        for name, value in values.items():
            if "/" not in name:
                self._metrics.set(f"learner_{name}", value)
            self._events.add_scalar(f"learner/{name}", value, learner_steps)
        self._events.add_scalar("learner/env_frames", env_frames, learner_steps)
        if values["teacher_entropy"] > _INDIFFERENT * self._most_entropy and not self._warned:
            self._warned = True
            _log.warning(
                "teacher_indifferent",
                entropy=values["teacher_entropy"],
                of=self._most_entropy,
                remedy="its action values differ by less than distillation.temperature: lower it",
            )
        return ""
