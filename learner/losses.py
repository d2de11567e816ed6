"""Losses of value-based agents and of distillation. Pure functions; the caller detaches targets and teachers.

Every loss is per state, [B]: the caller weights states, averages, and then weights terms. Nothing here reads a value
back from the device. Dtypes follow the arguments: float32 in training.

Shapes: B batch, A actions, N atoms, K teachers.
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
    return n_step_return + discount * _of_action(next_q_values, selector.argmax(dim=1))


def td_loss(q_values: Tensor, action: Tensor, target: Tensor, kind: Literal["huber", "mse"]) -> tuple[Tensor, Tensor]:
    """Loss of Q(s, a) against its target.

    Huber has delta 1: 0.5 e^2 inside [-1, 1], |e| - 0.5 outside. MSE is e^2 (no half), as in Dopamine.

    Args:
      q_values: float32 [B, A].
      action: int64 [B].
      target: float32 [B], detached.
    Returns: loss float32 [B], and the error Q(s, a) - y, float32 [B], detached.
    """
    error = _of_action(q_values, action) - target
    loss = error.square() if kind == "mse" else functional.huber_loss(error, torch.zeros_like(error), reduction="none")
    return loss, error.detach()


def project_distribution(
    n_step_return: Tensor, discount: Tensor, next_probabilities: Tensor, support: Tensor
) -> Tensor:
    """The distribution of R_n + discount * Z', projected onto the atoms.

    Mass between two atoms is split linearly, mass beyond the support goes to its edge; each row keeps its total mass.
    Equal arguments give bit-equal results, on a GPU too, since no sum uses atomic operations.

    Args:
      n_step_return, discount: float32 [B]; discount is gamma^n, or 0 where the episode terminated.
      next_probabilities: of Z', the return from s_{t+n} on under the chosen next action, float32 [B, N].
      support: atoms, ascending and evenly spaced, float32 [N], N >= 2.
    Returns: float32 [B, N].
    Source: Bellemare et al. 2017 (arXiv 1707.06887), eq. 7.
    """
    num_atoms = support.shape[0]
    spacing = (support[-1] - support[0]) / (num_atoms - 1)
    moved = n_step_return.unsqueeze(1) + discount.unsqueeze(1) * support  # [B, N]
    position = ((moved - support[0]) / spacing).clamp(0, num_atoms - 1)  # in atoms, [B, N]
    atom = torch.arange(num_atoms, device=support.device, dtype=support.dtype).unsqueeze(1)  # [N, 1]
    share = (1 - (position.unsqueeze(1) - atom).abs()).clamp(
        min=0
    )  # of each old atom in each new one, [B, N new, N old]
    return (share * next_probabilities.unsqueeze(1)).sum(dim=2)


def categorical_loss(logits: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy between a target distribution and that of the action taken.

    Args:
      logits: float32 [B, A, N].
      action: int64 [B].
      target: probabilities, float32 [B, N], detached.
    Returns: float32 [B].
    Source: Bellemare et al. 2017 (arXiv 1707.06887), Algorithm 1.
    """
    index = action.view(-1, 1, 1).expand(-1, 1, logits.shape[2])
    taken = logits.gather(1, index).squeeze(1)  # [B, N]
    return -(target * functional.log_softmax(taken, dim=1)).sum(dim=1)


def teacher_policy(teacher_values: Tensor, temperature: float | Tensor, weights: Tensor) -> Tensor:
    """Log probabilities of a teacher, or of a mixture of several: log sum_k w_k softmax(Q_k / tau_k).

    Args:
      teacher_values: Q values, float32 [B, K, A]; log-probabilities, with tau 1, for a teacher that returns its policy.
      temperature: tau > 0; float32 [K, 1] if it differs between teachers.
      weights: float32 [K], >= 0, summing to 1.
    Returns: float32 [B, A]; for K = 1 exactly the log-softmax.
    """
    log_policies = functional.log_softmax(teacher_values / temperature, dim=2)
    return (log_policies + weights.log().unsqueeze(1)).logsumexp(dim=1)


def gated_teacher(
    teacher_values: Tensor, q_values: Tensor, temperature: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Selects the teacher to follow in each state, if any, by the student's own values.

    The choice is k* = argmax_k Q_S(s, a_k), a_k the greedy action of teacher k. It is followed where Q_S(s, a_k*) is at
    least the value of the student's soft policy, sum_a softmax(Q_S / tau)_a Q_S(s, a), less the tolerance: against the
    greedy policy no teacher could ever win.

    Args:
      teacher_values: float32 [B, K, A]; only each teacher's argmax counts.
      q_values: the student's, float32 [B, A], detached.
      temperature: tau > 0, the student's.
      tolerance: >= 0, in Q values.
    Returns: k*, int64 [B], the first among equals; and the gate, bool [B].
    Source: Zhang et al. 2022 (CUP, arXiv 2210.08153), adapted to discrete actions.
    """
    of_teachers = q_values.gather(1, teacher_values.argmax(dim=2))  # Q_S(s, a_k), [B, K]
    best, chosen = of_teachers.max(dim=1)
    soft_value = (functional.softmax(q_values / temperature, dim=1) * q_values).sum(dim=1)
    return chosen, best >= soft_value - tolerance


def distillation_loss(q_values: Tensor, teacher_log_policy: Tensor, temperature: float) -> Tensor:
    """KL( teacher || softmax(Q_S / tau) ), without a factor tau^2.

    Args:
      q_values: the student's (of a c51 head the means of its distributions), float32 [B, A].
      teacher_log_policy: finite log probabilities, float32 [B, A], detached; see `teacher_policy`.
      temperature: tau > 0, of the student's softmax.
    Returns: float32 [B].
    Source: Agarwal et al. 2022 (arXiv 2206.01626), section 4, which prints the cross-entropy; its gradient is
    the same.
    """
    student = functional.log_softmax(q_values / temperature, dim=1)
    return (teacher_log_policy.exp() * (teacher_log_policy - student)).sum(dim=1)


def margin_loss(q_values: Tensor, teacher_action: Tensor, margin: float, form: Literal["mean", "max"]) -> Tensor:
    """How far other actions come within `margin` of the teacher's.

    mean: the mean over all actions of max(Q(s, a) + margin 1[a != a_T] - Q(s, a_T), 0), as in the code of
    Reincarnating RL. max: max_a (Q(s, a) + margin 1[a != a_T]) - Q(s, a_T), the worst action alone.

    Args:
      q_values: float32 [B, A].
      teacher_action: a_T, int64 [B].
      margin: in Q values, > 0.
      form: which of the two.
    Returns: float32 [B], >= 0.
    Source: Agarwal et al. 2022 (arXiv 2206.01626); Hester et al. 2018 (DQfD, arXiv 1704.03732), section 4, J_E.
    """
    index = teacher_action.unsqueeze(1)
    margins = torch.full_like(q_values, margin).scatter(1, index, 0.0)
    excess = q_values + margins - q_values.gather(1, index)  # 0 at the teacher's action, [B, A]
    return excess.amax(dim=1) if form == "max" else excess.clamp(min=0).mean(dim=1)


def conservative_loss(q_values: Tensor, action: Tensor, temperature: float) -> Tensor:
    """logsumexp_a(Q(s, a) / tau) - Q(s, a_data) / tau: CQL's penalty on values without support in the data.

    Args:
      q_values: float32 [B, A].
      action: the one in the data, int64 [B].
      temperature: tau > 0.
    Returns: float32 [B], >= 0.
    Source: Kumar et al. 2020 (arXiv 2006.04779), eq. 4 (CQL(H)), with a temperature as in Agarwal et al. 2022.
    """
    logits = q_values / temperature
    return logits.logsumexp(dim=1) - _of_action(logits, action)


def _of_action(values: Tensor, action: Tensor) -> Tensor:
    return values.gather(1, action.unsqueeze(1)).squeeze(1)
