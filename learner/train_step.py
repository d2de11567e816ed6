"""One gradient step of DQN with an optional distillation term."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batch_source import Batch
from learner.losses import distillation_loss, td_loss, td_target, teacher_policy
from learner.train_state import TrainState
from upcycle.config import DistillationConfig, LearnerConfig


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What one step leaves behind, still on the device: reading it waits for the device.

    Attributes:
      td_errors: |Q(s, a) - y|, float32 [B]: the new priorities.
      td_loss, distillation_loss: importance-weighted means, scalars.
    """

    td_errors: Tensor
    td_loss: Tensor
    distillation_loss: Tensor


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    learner: LearnerConfig,
    distillation: DistillationConfig,
    multiplier: float,
    teacher: Callable[[Tensor], Tensor] | None,
) -> StepResult:
    """Minimises mean_i w_i TD_i + lambda * m * mean_i w_i KL_i by one optimizer step.

    Args:
      state: changed in place; its step counter grows by one and the target network follows its period.
      batch: windows of B transitions on `state`'s device.
      learner, distillation: the configuration's sections.
      multiplier: m; 0 makes this plain DQN and leaves the teacher alone.
      teacher: observation -> Q values float32 [B, A]; needed while m is above 0.
    Source: Agarwal et al. 2022 (arXiv 2206.01626), section 4; Mnih et al. 2015, Algorithm 1.
    """
    with torch.no_grad():
        next_q_values = state.target_network(batch.next_observation)  # [B, A]
        selector = state.online_network(batch.next_observation) if learner.double_q else None
        target = td_target(batch.n_step_return, batch.discount, next_q_values, selector)  # [B]

    q_values = state.online_network(batch.observation)  # [B, A]
    td, td_errors = td_loss(q_values, batch.action, target, learner.loss)
    weighted_td = (batch.importance_weights * td).mean()
    weighted_kl = torch.zeros((), device=state.device)
    if multiplier > 0:
        assert teacher is not None, "distillation without a teacher"
        policy = teacher_policy(
            teacher(batch.observation).unsqueeze(1), distillation.temperature, torch.ones(1, device=state.device)
        )
        kl = distillation_loss(q_values, policy, distillation.temperature)
        weighted_kl = (batch.importance_weights * kl).mean()

    state.optimizer.zero_grad(set_to_none=True)
    (weighted_td + distillation.coefficient * multiplier * weighted_kl).backward()
    state.optimizer.step()
    state.learner_steps += 1
    state.average_weights()
    if state.learner_steps % learner.target_update_period == 0:
        state.sync_target()
    return StepResult(td_errors.abs(), weighted_td.detach(), weighted_kl.detach())
