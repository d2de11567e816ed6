"""Losses of DQN and QDagger. Pure functions of tensors; the caller detaches targets and teachers.

Shapes: B batch, A actions.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def td_target(
    n_step_return: Tensor, discount: Tensor, next_q_values: Tensor, selector_q_values: Tensor | None = None
) -> Tensor:
    """Y = R_n + discount * Q_target(s_{t+n}, a*), a* the greedy action of the selector.

    Args:
      n_step_return, discount: float32 [B]; discount is gamma^n, or 0 where the episode terminated.
      next_q_values: target network's, float32 [B, A].
      selector_q_values: online network's, float32 [B, A], for double Q-learning; by default the target network selects.
    Returns: float32 [B].
    Source: Mnih et al. 2015, Algorithm 1; van Hasselt et al. 2016, eq. 4.
    """
    selector = next_q_values if selector_q_values is None else selector_q_values
    best = selector.argmax(dim=1, keepdim=True)  # [B, 1]
    return n_step_return + discount * next_q_values.gather(1, best).squeeze(1)


def td_loss(q_values: Tensor, action: Tensor, target: Tensor, kind: Literal["huber", "mse"]) -> tuple[Tensor, Tensor]:
    """Loss of Q(s, a) against its target, each transition on its own.

    Huber has delta 1: 0.5 e^2 inside [-1, 1], |e| - 0.5 outside. MSE is e^2 (no half), as in Dopamine.

    Args:
      q_values: float32 [B, A].
      action: int64 [B].
      target: float32 [B], detached.
    Returns: loss float32 [B], and the error Q(s, a) - y, float32 [B], detached.
    """
    error = q_values.gather(1, action.unsqueeze(1)).squeeze(1) - target
    loss = error.square() if kind == "mse" else functional.huber_loss(error, torch.zeros_like(error), reduction="none")
    return loss, error.detach()


def distillation_loss(q_values: Tensor, teacher_q_values: Tensor, temperature: float) -> Tensor:
    """KL( softmax(Q_T / tau) || softmax(Q_S / tau) ), each state on its own, without a factor tau^2.

    Args:
      q_values, teacher_q_values: float32 [B, A]; the teacher's are detached.
      temperature: tau > 0.
    Returns: float32 [B].
    Source: Agarwal et al. 2022 (arXiv 2206.01626), section 4, which prints the cross-entropy; its gradient is
    the same.
    """
    student = functional.log_softmax(q_values / temperature, dim=1)
    teacher = functional.log_softmax(teacher_q_values / temperature, dim=1)
    return (teacher.exp() * (teacher - student)).sum(dim=1)
