"""Losses against golden numbers and an independent NumPy oracle in float64."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

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
from upcycle.experience.chunks import Array

TEACHER = torch.tensor([[1.0, 1.2, 0.9]])
STUDENT = torch.tensor([[0.5, 0.4, 0.6]])
SUPPORT = torch.linspace(-10, 10, 51)


def softmax(values: Array) -> Array:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def draws(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def kl_to_teacher(q_values: Tensor, teacher_values: Tensor, temperature: float) -> Tensor:
    one = torch.ones(1, dtype=q_values.dtype)
    return distillation_loss(q_values, teacher_policy(teacher_values.unsqueeze(1), temperature, one), temperature)


# TD


def test_td_target_bootstraps_with_the_discount_of_each_sample() -> None:
    next_q = torch.tensor([[1.0, 3.0], [5.0, 2.0]])
    target = td_target(torch.tensor([1.9801, 0.5]), torch.tensor([0.970299, 0.0]), next_q)
    np.testing.assert_allclose(target.numpy(), [1.9801 + 0.970299 * 3.0, 0.5], rtol=1e-6)


def test_double_q_values_the_action_that_the_online_network_selects() -> None:
    next_q, selector = torch.tensor([[1.0, 3.0]]), torch.tensor([[9.0, 0.0]])
    assert td_target(torch.zeros(1), torch.ones(1), next_q, selector).item() == 1.0


@pytest.mark.parametrize(("error", "huber"), [(0.5, 0.125), (-0.5, 0.125), (1.0, 0.5), (3.0, 2.5), (-3.0, 2.5)])
def test_td_loss_table(error: float, huber: float) -> None:
    q_values, action, target = torch.tensor([[7.0, error]]), torch.tensor([1]), torch.zeros(1)
    loss, errors = td_loss(q_values, action, target, "huber")
    assert (loss.item(), errors.item()) == (huber, error)
    assert td_loss(q_values, action, target, "mse")[0].item() == error**2


# C51


def projected_by_loops(returns: Array, discounts: Array, probabilities: Array, support: Array) -> Array:
    """Bellemare et al. 2017, Algorithm 1, as printed, but for atoms that fall exactly on another one."""
    result, spacing = np.zeros_like(probabilities), support[1] - support[0]
    for row, (reward, discount) in enumerate(zip(returns, discounts, strict=True)):
        for atom, probability in zip(support, probabilities[row], strict=True):
            position = (np.clip(reward + discount * atom, support[0], support[-1]) - support[0]) / spacing
            lower = min(int(np.floor(position)), len(support) - 2)
            result[row, lower] += probability * (lower + 1 - position)
            result[row, lower + 1] += probability * (position - lower)
    return result


def test_projection_golden_numbers() -> None:
    uniform = torch.full((1, 51), 1 / 51)
    projected = project_distribution(torch.ones(1), torch.tensor([0.99**3]), uniform, SUPPORT)[0]
    assert projected.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert projected[50].item() == pytest.approx(0.0552329, abs=1e-6)
    assert projected[25].item() == pytest.approx(0.0201902, abs=1e-6)
    assert projected[:3].tolist() == [0.0, 0.0, 0.0]
    assert (projected * SUPPORT).sum().item() == pytest.approx(0.9800420, abs=1e-5)


def test_projection_of_a_terminal_transition_keeps_the_return_alone() -> None:
    distribution = torch.rand(1, 51).softmax(dim=1)
    projected = project_distribution(torch.ones(1), torch.zeros(1), distribution, SUPPORT)[0]
    expected = torch.zeros(51)
    expected[27] = expected[28] = 0.5
    torch.testing.assert_close(projected, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("limit", "atoms"), [(10.0, 51), (1.0, 2), (0.5, 7)])
def test_projection_equals_the_loops_of_the_paper(limit: float, atoms: int) -> None:
    """Far beyond both edges as well."""
    support = np.linspace(-limit, limit, atoms)
    returns, discounts = draws(40) * limit, np.random.default_rng(1).choice([0.0, 0.97, 0.5], 40)
    probabilities = softmax(draws(40, atoms, seed=2))
    arguments = (torch.from_numpy(each) for each in (returns, discounts, probabilities, support))
    actual = project_distribution(*arguments).numpy()
    np.testing.assert_allclose(actual, projected_by_loops(returns, discounts, probabilities, support), atol=1e-12)
    np.testing.assert_allclose(actual.sum(axis=1), 1.0, rtol=1e-12)


def test_projection_keeps_the_mean_inside_the_support_and_all_of_an_unmoved_distribution() -> None:
    probabilities = torch.from_numpy(softmax(draws(8, 51)))
    support, returns = torch.linspace(-10, 10, 51, dtype=torch.float64), torch.linspace(-4, 4, 8, dtype=torch.float64)
    moved = project_distribution(returns, torch.full_like(returns, 0.5), probabilities, support)
    torch.testing.assert_close((moved * support).sum(dim=1), returns + 0.5 * (probabilities * support).sum(dim=1))
    unmoved = project_distribution(torch.zeros_like(returns), torch.ones_like(returns), probabilities, support)
    torch.testing.assert_close(unmoved, probabilities, rtol=1e-9, atol=1e-12)


def test_categorical_loss_is_the_cross_entropy_of_the_action_taken() -> None:
    logits, target, action = draws(6, 4, 11), softmax(draws(6, 11, seed=1)), np.array([0, 3, 1, 2, 2, 0])
    expected = -(target * np.log(softmax(logits)[np.arange(6), action])).sum(axis=1)
    actual = categorical_loss(torch.from_numpy(logits), torch.from_numpy(action), torch.from_numpy(target))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


# Distillation


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 1.685124), (1.0, 0.021433)])
def test_distillation_matches_golden_numbers(temperature: float, expected: float) -> None:
    assert kl_to_teacher(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, abs=1e-6)


def test_distillation_gradient_matches_golden_numbers() -> None:
    student = STUDENT.clone().requires_grad_()
    kl_to_teacher(student, TEACHER, 0.1).sum().backward()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad[0].numpy(), [1.30533, -7.53764, 6.23231], atol=2e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_distillation_gradient_is_the_difference_of_the_policies_over_the_temperature(temperature: float) -> None:
    student = STUDENT.double().requires_grad_()
    kl_to_teacher(student, TEACHER.double(), temperature).sum().backward()
    expected = softmax(STUDENT.double().numpy() / temperature) - softmax(TEACHER.double().numpy() / temperature)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected / temperature, rtol=1e-9)


def test_distillation_is_per_state_and_has_no_squared_temperature() -> None:
    student, teacher = draws(5, 4), draws(5, 4, seed=1)
    p, q = softmax(teacher / 0.3), softmax(student / 0.3)
    expected = (p * np.log(p / q)).sum(axis=1)
    actual = kl_to_teacher(torch.from_numpy(student), torch.from_numpy(teacher), 0.3)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_one_teacher_teaches_its_softmax_exactly() -> None:
    teacher = torch.from_numpy(draws(7, 6)).float() * 3
    policy = teacher_policy(teacher.unsqueeze(1), 0.1, torch.ones(1))
    assert torch.equal(policy, torch.log_softmax(teacher / 0.1, dim=1))


def test_a_mixture_of_teachers_equals_the_oracle() -> None:
    teachers, weights = draws(7, 3, 4), np.array([0.5, 0.2, 0.3])
    expected = np.einsum("k,bka->ba", weights, softmax(teachers / 0.2))
    policy = teacher_policy(torch.from_numpy(teachers), 0.2, torch.from_numpy(weights))
    np.testing.assert_allclose(policy.exp().numpy(), expected, rtol=1e-10)
    without = teacher_policy(torch.from_numpy(teachers), 0.2, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(without.exp().numpy(), softmax(teachers[:, 0] / 0.2), rtol=1e-10)


def test_a_sure_teacher_gives_a_finite_loss_and_gradient() -> None:
    """Gaps of a thousand temperatures: probabilities are 0 in float32, log probabilities are not."""
    student = torch.tensor([[0.0, 100.0, 0.0]], requires_grad=True)
    loss = kl_to_teacher(student, torch.tensor([[100.0, 0.0, 50.0]]), 0.1)
    loss.sum().backward()
    assert student.grad is not None
    assert loss.item() == pytest.approx(1000.0)
    assert student.grad[0].tolist() == pytest.approx([-10.0, 10.0, 0.0])


# Several teachers


def test_the_gate_by_hand() -> None:
    """Two teachers, with greedy actions 0 and 2.

    The student likes 2 best of these in the first state, 0 in the second; in the third both lie below its own policy;
    in the fourth they are equal.
    """
    teachers = torch.tensor([[[5.0, 0.0, 0.0], [0.0, 0.0, 5.0]]]).repeat(4, 1, 1)
    student = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.1], [1.0, 0.0, 1.0]])
    chosen, gate = gated_teacher(teachers, student, 0.1, 0.0)
    assert (chosen.dtype, gate.dtype) == (torch.int64, torch.bool)
    assert chosen.tolist() == [1, 0, 1, 0]
    assert gate.tolist() == [True, True, False, True]
    assert gated_teacher(teachers, student, 0.1, 2.95)[1].tolist() == [True, True, True, True]


def test_the_gate_equals_the_oracle() -> None:
    teachers, student, temperature, tolerance = draws(200, 3, 5), draws(200, 5, seed=1), 0.7, 0.05
    of_teachers = np.take_along_axis(student, teachers.argmax(axis=2), axis=1)
    soft_value = (softmax(student / temperature) * student).sum(axis=1)
    chosen, gate = gated_teacher(torch.from_numpy(teachers), torch.from_numpy(student), temperature, tolerance)
    np.testing.assert_array_equal(chosen.numpy(), of_teachers.argmax(axis=1))
    np.testing.assert_array_equal(gate.numpy(), of_teachers.max(axis=1) >= soft_value - tolerance)
    assert 0.1 < gate.double().mean() < 0.9


# Margin and conservative terms


@pytest.mark.parametrize(("form", "expected"), [("mean", 0.833333), ("max", 2.0)])
def test_margin_golden_numbers(form: Literal["mean", "max"], expected: float) -> None:
    loss = margin_loss(torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([0]), 1.0, form)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["mean", "max"])
def test_margin_equals_the_oracle_and_is_0_where_the_teacher_is_ahead(form: Literal["mean", "max"]) -> None:
    q_values, action = draws(50, 4), np.random.default_rng(1).integers(0, 4, 50)
    q_values[0, action[0]] = 9.0
    expected = np.empty(50)
    for row in range(50):
        own = q_values[row, action[row]]
        excess = [q_values[row, a] + 0.8 * (a != action[row]) - own for a in range(4)]
        expected[row] = max(excess) if form == "max" else np.mean([max(each, 0.0) for each in excess])
    actual = margin_loss(torch.from_numpy(q_values), torch.from_numpy(action), 0.8, form)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-15)
    assert actual[0] == 0


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 10.0000457), (1.0, 1.4643684)])
def test_conservative_golden_numbers(temperature: float, expected: float) -> None:
    loss = conservative_loss(torch.tensor([[1.0, 2.0, 0.5]]).double(), torch.tensor([0]), temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_conservative_loss_equals_the_oracle() -> None:
    q_values, action = draws(9, 4), np.random.default_rng(1).integers(0, 4, 9)
    expected = -np.log(softmax(q_values / 0.3)[np.arange(9), action])
    actual = conservative_loss(torch.from_numpy(q_values), torch.from_numpy(action), 0.3)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)
