"""One gradient step: TD loss, imitation of the teachers, and the optimizer."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from learner.batches import Batch
from learner.loss_terms import LossInputs
from learner.losses import (
    categorical_loss,
    conservative_loss,
    distillation_loss,
    gated_teacher,
    margin_loss,
    project_distribution,
    td_loss,
    td_target,
    teacher_policy,
)
from learner.objective import Objective
from learner.train_state import TrainState
from upcycle.config.run import LearnerConfig
from upcycle.networks.q_network import Outputs

_LEAST_TD_ERROR = 1e-6
_LEAST_CROSS_ENTROPY = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """The results of one step, still on the device; reading them waits for it.

    Attributes:
      priorities: of the TD term alone, unweighted, float32 [B]: |Q(s, a) - y| + 1e-6, or cross-entropy + 1e-10.
      terms: importance-weighted means in the order of `objective.TERMS`, then of the configuration's own terms.
    """

    priorities: Tensor
    terms: Tensor


def train_step(
    state: TrainState, batch: Batch, objective: Objective, *, multiplier: float, teacher_values: Tensor | None = None
) -> StepResult:
    """Minimises the objective on one batch by one optimizer step.

    Args:
      state: changed in place; its step counter grows by one and the target network follows its period.
      batch: windows of B transitions on `state`'s device.
      multiplier: m of the imitation terms; at 0 they are left out.
      teacher_values: of the batch's observations, float32 [B, K, A] of K teachers; required while m is above 0.
    Source: Agarwal et al. 2022 (arXiv 2206.01626), section 4; Mnih et al. 2015, Algorithm 1.
    """
    loss, result = compute_loss(state, batch, objective, multiplier=multiplier, teacher_values=teacher_values)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    state.optimizer.step()
    state.learner_steps += 1
    state.average_weights()
    if state.learner_steps % objective.learner.target_update_period == 0:
        state.sync_target()
    return result


def compute_loss(
    state: TrainState, batch: Batch, objective: Objective, *, multiplier: float, teacher_values: Tensor | None
) -> tuple[Tensor, StepResult]:
    """The loss of a batch, a scalar with its graph, and what is reported of it. Arguments as of `train_step`."""
    weights = batch.importance_weights
    outputs: Outputs = state.online(batch.observation)
    td, priorities = _td_term(state, batch, outputs, objective.learner)
    weighted_td = (weights * td).mean()
    loss = objective.learner.td_coefficient * weighted_td
    zero = torch.zeros((), device=state.device)
    distillation = margin = conservative = entropy = zero
    log_policy: Tensor | None = None
    if multiplier > 0 and objective.imitates:
        assert teacher_values is not None, "imitation without a teacher"
        log_policy, gate = _teaching(outputs.q_values.detach(), teacher_values, objective)
        entropy = -(log_policy.exp() * log_policy).sum(dim=1).mean()
        gate = weights * gate
        if objective.distillation.coefficient > 0:
            kl = distillation_loss(outputs.q_values, log_policy, objective.distillation.temperature)
            distillation = (gate * kl).mean()
            loss = loss + objective.distillation.coefficient * multiplier * distillation
        if objective.margin.coefficient > 0:
            options = objective.margin
            margin_penalty = margin_loss(outputs.q_values, log_policy.argmax(dim=1), options.margin, options.form)
            margin = (gate * margin_penalty).mean()
            loss = loss + options.coefficient * multiplier * margin
    if objective.cql is not None:
        gap = conservative_loss(outputs.q_values, batch.action, objective.cql.temperature)
        conservative = (weights * gap).mean()
        loss = loss + objective.cql.coefficient * conservative
    custom = list[Tensor]()
    for term in objective.custom:
        mean = (weights * term.loss(_inputs(state, batch, outputs, log_policy))).mean() if term.is_active else zero
        loss = loss + term.config.coefficient * (multiplier if term.config.fades else 1.0) * mean
        custom.append(mean)
    terms = torch.stack((weighted_td, distillation, margin, conservative, entropy, *custom)).detach()
    return loss, StepResult(priorities, terms)


def _inputs(state: TrainState, batch: Batch, outputs: Outputs, log_policy: Tensor | None) -> LossInputs:
    return LossInputs(
        observation=batch.observation,
        next_observation=batch.next_observation,
        action=batch.action,
        n_step_return=batch.n_step_return,
        discount=batch.discount,
        outputs=outputs,
        teacher_log_policy=log_policy,
        network=state.online_network,
        target_network=state.target_network,
    )


def _td_term(state: TrainState, batch: Batch, outputs: Outputs, config: LearnerConfig) -> tuple[Tensor, Tensor]:
    """TD loss and priority of each transition, float32 [B] both, the priorities detached."""
    with torch.no_grad():
        following: Outputs = state.target(batch.next_observation)
        selector: Outputs | None = state.online(batch.next_observation) if config.double_q else None
    if outputs.logits is None:
        chooser = None if selector is None else selector.q_values
        target = td_target(batch.n_step_return, batch.discount, following.q_values, chooser)
        loss, errors = td_loss(outputs.q_values, batch.action, target, config.loss)
        return loss, errors.abs() + _LEAST_TD_ERROR
    support = state.online_network.support
    assert following.logits is not None
    assert support is not None
    best = (following if selector is None else selector).q_values.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    probabilities = functional.softmax(following.logits[rows, best], dim=1)  # [B, atoms]
    target = project_distribution(batch.n_step_return, batch.discount, probabilities, support)
    loss = categorical_loss(outputs.logits, batch.action, target)
    return loss, loss.detach() + _LEAST_CROSS_ENTROPY


def _teaching(q_values: Tensor, teacher_values: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """The policy to imitate, log probabilities [B, A], and how much it counts in each state, float32 [B].

    Args:
      q_values: the student's, detached, [B, A].
      teacher_values: [B, K, A].
    """
    temperature = objective.distillation.temperature
    temperatures = temperature if objective.temperatures is None else objective.temperatures
    assert objective.teacher is not None
    assert objective.teacher_weights is not None
    if objective.teacher.combination == "value_gated":
        tolerance = objective.teacher.gate_tolerance
        chosen, gate = gated_teacher(teacher_values, q_values, temperature, tolerance)
        rows = torch.arange(len(chosen), device=chosen.device)
        teaching = (teacher_values / temperatures)[rows, chosen]  # [B, A]
        return functional.log_softmax(teaching, dim=1), gate.to(q_values.dtype)
    log_policy = teacher_policy(teacher_values, temperatures, objective.teacher_weights)
    return log_policy, torch.ones_like(log_policy[:, 0])
