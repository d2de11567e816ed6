"""Optimizers against NumPy, step by step, and where each has its epsilon."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from learner.optimizers import CentredRMSProp, build_optimizer
from tests.helpers.paths import ROOT
from upcycle.config.run import LearnerConfig
from upcycle.experience.chunks import Array

SHAPES = ((3, 4), (5,), (2, 1, 2))
STEPS = 12

Oracle = Callable[[Array, list[Array]], Array]
"""Weights and a list of gradients -> weights after as many steps."""


def adam(weights: Array, gradients: list[Array], *, rate: float = 0.01, epsilon: float = 0.02) -> Array:
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        weights = weights - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)
    return weights


def rmsprop(weights: Array, gradients: list[Array], *, rate: float = 0.01, epsilon: float = 0.02) -> Array:
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for g in gradients:
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
        weights = weights - rate * g / np.sqrt(v - m**2 + epsilon)
    return weights


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, dtype=dtype)) for shape in SHAPES]


def gradients_of(step: int) -> list[Array]:
    rng = np.random.default_rng(step)
    return [rng.normal(size=shape) for shape in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(weights, gradients_of(step), strict=True):
            parameter.grad = torch.from_numpy(gradient).to(parameter.dtype)
        optimizer.step()


def config(name: str) -> LearnerConfig:
    return LearnerConfig.model_validate(
        {"optimizer": name, "learning_rate": 0.01, "adam_epsilon": 0.02, "rmsprop_epsilon": 0.02}
    )


@pytest.mark.parametrize(("name", "oracle"), [("adam", adam), ("rmsprop", rmsprop)])
def test_steps_equal_the_oracle(name: str, oracle: Oracle) -> None:
    """With an epsilon so large that its place matters: Adam's is added after bias correction."""
    weights = parameters()
    expected = [
        oracle(parameter.detach().numpy().copy(), [gradients_of(step)[i] for step in range(STEPS)])
        for i, parameter in enumerate(weights)
    ]
    take_steps(build_optimizer(weights, config(name)), weights, range(STEPS))
    for parameter, values in zip(weights, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), values, rtol=1e-10)


def test_epsilon_inside_the_root_makes_a_steady_gradients_step_316_times_smaller() -> None:
    ours, theirs = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    inside = CentredRMSProp([ours], learning_rate=1.0, decay=0.95, epsilon=1e-5)
    outside = torch.optim.RMSprop([theirs], lr=1.0, alpha=0.95, eps=1e-5, centered=True)
    before = (0.0, 0.0)
    for _ in range(1000):
        before = (ours.item(), theirs.item())
        ours.grad, theirs.grad = (torch.full((1,), 1e-3, dtype=torch.float64) for _ in range(2))
        inside.step()
        outside.step()
    steps = (before[0] - ours.item(), before[1] - theirs.item())
    assert steps[0] == pytest.approx(1e-3 / 1e-5**0.5, rel=1e-4)
    assert steps[1] / steps[0] == pytest.approx(316, abs=1)


def test_large_steady_gradients_keep_every_weight_finite() -> None:
    """In float32 v - m^2 of equal gradients comes out below minus epsilon now and then."""
    weights = nn.Parameter(torch.zeros(1000))
    optimizer = CentredRMSProp([weights], learning_rate=1e-3, decay=0.95, epsilon=1e-5)
    for _ in range(600):
        weights.grad = torch.linspace(100, 5000, 1000)
        optimizer.step()
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_restored_optimizer_goes_on_bit_by_bit(name: str) -> None:
    straight, interrupted = parameters(torch.float32), parameters(torch.float32)
    whole, first = build_optimizer(straight, config(name)), build_optimizer(interrupted, config(name))
    take_steps(whole, straight, range(STEPS))
    take_steps(first, interrupted, range(5))
    restored = [nn.Parameter(parameter.detach().clone()) for parameter in interrupted]
    second = build_optimizer(restored, config(name))
    second.load_state_dict(first.state_dict())
    take_steps(second, restored, range(5, STEPS))
    for one, other in zip(straight, restored, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_the_rate_is_the_groups_and_a_parameter_without_gradient_stays(name: str) -> None:
    weights = parameters()
    optimizer = build_optimizer(weights, config(name))
    before = [parameter.detach().clone() for parameter in weights]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(optimizer, weights, range(1))
    assert all(torch.equal(one, other) for one, other in zip(weights, before, strict=True))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    weights[1].grad = None
    optimizer.step()
    assert torch.equal(weights[1], before[1])
    assert not torch.equal(weights[0], before[0])


def test_adam_is_pytorch_s_bit_by_bit():
    config = LearnerConfig(optimizer="adam")
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    theirs_optimizer = torch.optim.Adam(theirs, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    ours_optimizer = build_optimizer(ours, config)
    for _ in range(STEPS):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours_optimizer.step()
        theirs_optimizer.step()
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.equal(mine, its)


def test_optimizers_import_no_compiler():
    code = """
import sys
import torch
from learner.optimizers import build_optimizer
from upcycle.config.run import LearnerConfig

for kind in ("adam", "rmsprop"):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([parameter], LearnerConfig(optimizer=kind))
    parameter.sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not parameter.requires_grad or parameter.grad is None
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
    )
    assert run.stdout.strip() == "False"
