"""Losses against golden numbers and an independent NumPy oracle; gradients by finite differences."""

from typing import Literal

import numpy as np
import pytest
import torch

from learner.losses import distillation_loss, td_loss, td_target, teacher_policy

TEACHER = torch.tensor([[1.0, 1.2, 0.9]])
STUDENT = torch.tensor([[0.5, 0.4, 0.6]])


def distillation(q_values: torch.Tensor, teacher_q_values: torch.Tensor, temperature: float) -> torch.Tensor:
    one = torch.ones(1, dtype=q_values.dtype)
    return distillation_loss(q_values, teacher_policy(teacher_q_values.unsqueeze(1), temperature, one), temperature)


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 1.685124), (1.0, 0.021433)])
def test_distillation_matches_golden_numbers(temperature: float, expected: float) -> None:
    assert distillation(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, abs=1e-6)


def test_distillation_gradient_matches_golden_numbers() -> None:
    student = STUDENT.clone().requires_grad_()
    distillation(student, TEACHER, 0.1).sum().backward()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad[0].numpy(), [1.30533, -7.53764, 6.23231], atol=2e-5)


def test_distillation_is_per_state_and_has_no_squared_temperature() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 4))

    def softmax(values: np.ndarray) -> np.ndarray:
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    p, q = softmax(teacher / 0.3), softmax(student / 0.3)
    expected = (p * np.log(p / q)).sum(axis=1)
    actual = distillation(torch.from_numpy(student), torch.from_numpy(teacher), 0.3)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


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


@pytest.mark.parametrize("kind", ["huber", "mse"])
def test_gradients_by_finite_differences(kind: Literal["huber", "mse"]) -> None:
    torch.manual_seed(0)
    q_values = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    action, target = torch.randint(0, 3, (6,)), torch.randn(6, dtype=torch.float64)
    teacher = torch.randn(6, 3, dtype=torch.float64)

    def td(values: torch.Tensor) -> torch.Tensor:
        return td_loss(values, action, target, kind)[0]

    def kl(values: torch.Tensor) -> torch.Tensor:
        return distillation(values, teacher, 0.5)

    assert torch.autograd.gradcheck(td, (q_values,))
    assert torch.autograd.gradcheck(kl, (q_values,))
