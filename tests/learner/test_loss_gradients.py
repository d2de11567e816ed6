"""Gradients of all losses by finite differences in float64, without a read back to the host, and of C51 students."""

from collections.abc import Callable

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
from upcycle.config.run import NetworkConfig
from upcycle.networks.q_network import QNetwork, build_network

B, A, N, K = 6, 3, 7, 2

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of student's Q values [B, A], action [B], a scalar a state [B] and teachers' Q values [B, K, A]."""


def mixture(teachers: Tensor) -> Tensor:
    return teacher_policy(teachers, 0.5, torch.full((K,), 1 / K, dtype=teachers.dtype, device=teachers.device))


LOSSES: dict[str, Loss] = {
    "huber": lambda q, action, scalar, _: td_loss(q, action, scalar, "huber")[0],
    "mse": lambda q, action, scalar, _: td_loss(q, action, scalar, "mse")[0],
    "distillation": lambda q, _action, _scalar, teachers: distillation_loss(q, mixture(teachers), 0.5),
    "margin-mean": lambda q, action, _scalar, _teachers: margin_loss(q, action, 0.8, "mean"),
    "margin-max": lambda q, action, _scalar, _teachers: margin_loss(q, action, 0.8, "max"),
    "conservative": lambda q, action, _scalar, _teachers: conservative_loss(q, action, 0.3),
}


def arguments(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    q_values, scalar, teachers = torch.randn(B, A), torch.randn(B), torch.randn(B, K, A)
    action = torch.randint(0, A, (B,))
    return q_values.to(device, dtype), action.to(device), scalar.to(device, dtype), teachers.to(device, dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences(name: str) -> None:
    q_values, *rest = arguments()

    def loss(values: Tensor) -> Tensor:
        return LOSSES[name](values, *rest)

    assert torch.autograd.gradcheck(loss, (q_values.requires_grad_(),))


def test_the_gradient_of_the_categorical_loss_by_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(B, A, N, dtype=torch.float64, requires_grad=True)
    action, target = torch.randint(0, A, (B,)), torch.randn(B, N, dtype=torch.float64).softmax(dim=1)

    def loss(values: Tensor) -> Tensor:
        return categorical_loss(values, action, target)

    assert torch.autograd.gradcheck(loss, (logits,))


def test_the_gradient_of_the_categorical_loss_is_the_difference_of_the_distributions() -> None:
    torch.manual_seed(0)
    logits = torch.randn(B, A, N, dtype=torch.float64, requires_grad=True)
    action, target = torch.randint(0, A, (B,)), torch.randn(B, N, dtype=torch.float64).softmax(dim=1)
    categorical_loss(logits, action, target).sum().backward()
    expected, rows = torch.zeros_like(logits), torch.arange(B)
    expected[rows, action] = logits.detach().softmax(dim=2)[rows, action] - target
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


def distributional(q_values: Tensor, action: Tensor, scalar: Tensor, teachers: Tensor) -> tuple[Tensor, ...]:
    """Everything that is no loss of Q values, in one."""
    support = torch.linspace(-2, 2, N, dtype=q_values.dtype, device=q_values.device)
    logits = q_values.unsqueeze(2) * support
    projected = project_distribution(scalar, scalar.abs(), logits[:, 0].softmax(dim=1), support)
    chosen, gate = gated_teacher(teachers, q_values, 0.5, 0.1)
    return projected, categorical_loss(logits, action, projected), td_target(scalar, scalar, q_values), chosen, gate


def everything(q_values: Tensor, action: Tensor, scalar: Tensor, teachers: Tensor) -> tuple[Tensor, ...]:
    losses = tuple(loss(q_values, action, scalar, teachers) for loss in LOSSES.values())
    return (*losses, *distributional(q_values, action, scalar, teachers))


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors without contents: whoever asks for a value gets an error."""
    results = everything(*arguments(torch.float32, "meta"))
    assert [tuple(each.shape) for each in results] == [(B,)] * 6 + [(B, N)] + [(B,)] * 4
    assert {each.dtype for each in results} == {torch.float32, torch.int64, torch.bool}


@pytest.mark.slow
def test_all_of_it_is_one_graph_to_the_compiler() -> None:
    compiled = torch.compile(everything, fullgraph=True, backend="eager")
    for actual, expected in zip(compiled(*arguments()), everything(*arguments()), strict=True):
        torch.testing.assert_close(actual, expected)


def c51(seed: int) -> QNetwork:
    torch.manual_seed(seed)
    config = NetworkConfig(kind="mlp", hidden=16, head="c51", atoms=5, support_limit=2)
    return build_network(config, frame_shape=(5,), stack=1, num_actions=A).double()


def test_a_dqn_teacher_moves_the_means_of_a_c51_student() -> None:
    """dQ_a / dlogit_aj = p_aj (z_j - Q_a), so that the loss's is (pi_S - pi_T)_a / tau times that."""
    torch.manual_seed(0)
    logits = torch.randn(B, A, N, dtype=torch.float64, requires_grad=True)
    support, teacher = torch.linspace(-2, 2, N, dtype=torch.float64), torch.randn(B, 1, A, dtype=torch.float64)
    q_values = (logits.softmax(dim=2) * support).sum(dim=2)
    policy = teacher_policy(teacher, 0.1, torch.ones(1, dtype=torch.float64))
    distillation_loss(q_values, policy, 0.1).sum().backward()
    p, q = logits.detach().softmax(dim=2).numpy(), q_values.detach().numpy()
    student = np.exp(q / 0.1) / np.exp(q / 0.1).sum(axis=1, keepdims=True)
    slope = (student - policy.exp().numpy()) / 0.1
    expected = slope[:, :, None] * p * (support.numpy() - q[:, :, None])
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("head", ["q", "c51"])
def test_a_c51_student_learns_the_policy_of_either_teacher(head: str) -> None:
    torch.manual_seed(1)
    config = NetworkConfig.model_validate({"kind": "mlp", "hidden": 16, "head": head, "support_limit": 2})
    teacher = build_network(config, frame_shape=(5,), stack=1, num_actions=A).double()
    student, observation = c51(2), torch.randn(64, 1, 5, dtype=torch.float64)
    with torch.no_grad():
        policy = teacher_policy(teacher(observation).unsqueeze(1), 0.1, torch.ones(1, dtype=torch.float64))
    optimizer, losses = torch.optim.Adam(student.parameters(), lr=1e-2), list[float]()
    for _ in range(60):
        loss = distillation_loss(student(observation), policy, 0.1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (student(observation).argmax(dim=1) == policy.argmax(dim=1)).double().mean() > 0.8


def test_a_c51_teacher_teaches_its_means_whatever_the_shape_of_its_distributions() -> None:
    """The teacher's returns lie at the ends of the support, the student's within half of it, with equal means."""
    means = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64)
    log_policies: list[Tensor] = []
    student = c51(1)
    for network, atom in ((c51(2), 2.0), (student, 1.0)):
        probabilities = torch.full((A, 5), 1e-300, dtype=torch.float64)
        low, high = {2.0: (0, 4), 1.0: (1, 3)}[atom]
        probabilities[:, high], probabilities[:, low] = (1 + means / atom) / 2, (1 - means / atom) / 2
        with torch.no_grad():
            network.head.get_parameter("weight").zero_()
            network.head.get_parameter("bias").copy_(probabilities.log().flatten())
            q_values = network(torch.randn(4, 1, 5, dtype=torch.float64))
        torch.testing.assert_close(q_values, means.expand(4, A), rtol=0, atol=1e-6)
        log_policies.append(teacher_policy(q_values.unsqueeze(1), 0.1, torch.ones(1, dtype=torch.float64)))
    q_values = student(torch.randn(4, 1, 5, dtype=torch.float64))
    loss = distillation_loss(q_values, log_policies[0], 0.1)
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-9)
