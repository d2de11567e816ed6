"""Gradient steps: what the objective adds up, that losses fall, and that CUDA (`make test-gpu`) steps as a CPU does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.batches import Batch
from learner.losses import categorical_loss, conservative_loss, distillation_loss, margin_loss, teacher_policy
from learner.measured_tuning import random_batch
from learner.objective import TERMS, Objective, score_weights, temperatures_of
from learner.train_state import TrainState
from learner.train_step import compute_loss, train_step
from teacher_store.records.record import TeacherKind, TeacherRecord
from teacher_store.teacher import Teacher
from upcycle.config.run import (
    CqlConfig,
    DistillationConfig,
    EnvConfig,
    LearnerConfig,
    MarginConfig,
    NetworkConfig,
    TeacherConfig,
)
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View
from upcycle.networks.q_network import build_network

CPU = torch.device("cpu")
VIEW = View(n_step=3, stack=4)
SPEC = ChunkSpec(frame_shape=(42, 42), frame_dtype="uint8", num_actions=6, steps=16, history=3, lookahead=3)
TAU = 0.1


def new_state(head: str = "q", device: torch.device = CPU, **learner: Any) -> TrainState:
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"width": 0.25, "hidden": 32, "head": head})
    network = build_network(config, frame_shape=(42, 42), stack=4, num_actions=6)
    return TrainState(network, LearnerConfig(learning_rate=1e-3, **learner), device)


def new_batch(device: torch.device = CPU) -> Batch:
    batch = random_batch(SPEC, VIEW, 16, device)
    weights = torch.linspace(0.2, 1.0, 16, device=device)
    return replace(batch, importance_weights=weights)


def labels(batch: Batch, teachers: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(16, teachers, 6, generator=generator).to(batch.action.device) * TAU


def objective(state: TrainState, **terms: Any) -> Objective:
    values: dict[str, Any] = {
        "learner": state.config,
        "distillation": DistillationConfig(temperature=TAU),
        "margin": MarginConfig(),
        "cql": None,
        "teacher": TeacherConfig(),
        "teacher_weights": torch.tensor([0.25, 0.75], device=state.device),
    }
    return Objective(**(values | terms))


@pytest.mark.parametrize("head", ["q", "c51"])
@pytest.mark.parametrize("form", ["mean", "max"])
def test_all_terms_are_added_up_with_their_weights(head: str, form: str) -> None:
    state, batch = new_state(head, td_coefficient=0.5), new_batch()
    terms = objective(
        state,
        distillation=DistillationConfig(coefficient=3.0, temperature=TAU),
        margin=MarginConfig.model_validate({"coefficient": 2.0, "margin": 0.7, "form": form}),
        cql=CqlConfig(coefficient=0.3),
    )
    teacher = labels(batch)
    loss, result = compute_loss(state, batch, terms, multiplier=0.6, teacher_values=teacher)
    weights, q_values = batch.importance_weights, state.online_network(batch.observation)
    log_policy = teacher_policy(teacher, TAU, torch.tensor([0.25, 0.75]))
    by_hand = {
        "td_loss": (weights * td_by_hand(state, batch)).mean(),
        "distillation_loss": (weights * distillation_loss(q_values, log_policy, TAU)).mean(),
        "margin_loss": (weights * margin_loss(q_values, log_policy.argmax(1), 0.7, terms.margin.form)).mean(),
        "cql_loss": (weights * conservative_loss(q_values, batch.action, 0.1)).mean(),
        "teacher_entropy": -(log_policy.exp() * log_policy).sum(1).mean(),
    }
    torch.testing.assert_close(result.terms, torch.stack([by_hand[name] for name in TERMS]).detach())
    total = 0.5 * by_hand["td_loss"] + 0.6 * (3.0 * by_hand["distillation_loss"] + 2.0 * by_hand["margin_loss"])
    torch.testing.assert_close(loss, total + 0.3 * by_hand["cql_loss"])


def td_by_hand(state: TrainState, batch: Batch) -> Tensor:
    """Of each transition, in loops of its own: Huber, or the cross-entropy with a projection atom by atom."""
    outputs = state.online_network.outputs(batch.observation)
    following = state.target_network.outputs(batch.next_observation)
    rows = torch.arange(16)
    best = following.q_values.argmax(1)
    if outputs.logits is None:
        target = batch.n_step_return + batch.discount * following.q_values[rows, best]
        error = (outputs.q_values[rows, batch.action] - target.detach()).abs()
        return torch.where(error <= 1, 0.5 * error.square(), error - 0.5)
    assert following.logits is not None
    probabilities = following.logits[rows, best].softmax(1).detach()
    target = torch.zeros(16, 51)
    for row in range(16):
        for atom in range(51):
            value = batch.n_step_return[row] + batch.discount[row] * (-10 + 0.4 * atom)
            place = (min(max(float(value), -10.0), 10.0) + 10) / 0.4
            low = min(int(place), 49)
            target[row, low] += probabilities[row, atom] * (1 - (place - low))
            target[row, low + 1] += probabilities[row, atom] * (place - low)
    return categorical_loss(outputs.logits, batch.action, target)


def test_a_multiplier_of_0_leaves_the_teachers_alone() -> None:
    state, batch = new_state(), new_batch()
    _, result = compute_loss(state, batch, objective(state), multiplier=0.0, teacher_values=None)
    assert result.terms[1:].tolist() == [0, 0, 0, 0]


def test_without_td_loss_only_the_teacher_is_followed() -> None:
    state, batch = new_state(td_coefficient=0.0), new_batch()
    before = state.online_network(batch.observation)
    loss, result = compute_loss(state, batch, objective(state), multiplier=1.0, teacher_values=before[:, None])
    assert float(result.terms[0]) > 0
    loss.backward()
    assert all(
        parameter.grad is None or float(parameter.grad.abs().max()) < 1e-5
        for parameter in state.online_network.parameters()
    ), "the student is its own teacher, so that nothing is left to learn"


@pytest.mark.parametrize("head", ["q", "c51"])
def test_priorities_are_of_the_td_term_alone(head: str) -> None:
    state, batch = new_state(head), new_batch()
    heavy = replace(batch, importance_weights=batch.importance_weights * 7)
    terms = objective(state)
    _, plain = compute_loss(state, batch, terms, multiplier=0.0, teacher_values=None)
    _, taught = compute_loss(state, heavy, terms, multiplier=1.0, teacher_values=labels(batch))
    torch.testing.assert_close(plain.priorities, taught.priorities)
    assert float(plain.priorities.min()) > 0
    if head == "c51":
        torch.testing.assert_close(plain.priorities, td_by_hand(state, batch).detach() + 1e-10)


def test_double_q_learning_lets_the_online_network_choose() -> None:
    state, batch = new_state(double_q=True), new_batch()
    with torch.no_grad():
        for parameter in state.online_network.head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    _, result = compute_loss(state, batch, objective(state), multiplier=0.0, teacher_values=None)
    best = state.online_network(batch.next_observation).argmax(1, keepdim=True)
    target = batch.n_step_return + batch.discount * state.target_network(batch.next_observation).gather(1, best)[:, 0]
    error = state.online_network(batch.observation).gather(1, batch.action[:, None])[:, 0] - target
    torch.testing.assert_close(result.priorities, error.detach().abs() + 1e-6)


@pytest.mark.parametrize("combination", ["mixture", "value_gated"])
def test_teachers_that_give_probabilities_and_such_that_give_values_teach_together(combination: str) -> None:
    state, batch = new_state(), new_batch()
    temperatures = temperatures_of([teacher("q_values"), teacher("probabilities")], TAU, CPU)
    teaching = TeacherConfig.model_validate({"combination": combination, "gate_tolerance": 100.0})
    terms = objective(state, teacher=teaching, temperatures=temperatures)
    values, q_values = labels(batch), state.online_network(batch.observation)
    probabilities = torch.softmax(values[:, 1] / 0.02, dim=1)
    policies = [torch.softmax(values[:, 0] / TAU, dim=1), probabilities]
    mixed = torch.stack([values[:, 0], probabilities.log()], dim=1)
    if combination == "mixture":
        expected = 0.25 * policies[0] + 0.75 * policies[1]
    else:
        liked = torch.stack([q_values.gather(1, policy.argmax(1, keepdim=True))[:, 0] for policy in policies])
        expected = torch.where(liked.argmax(0)[:, None] == 0, policies[0], policies[1])
        assert 0 < int(liked.argmax(0).sum()) < 16
    _, result = compute_loss(state, batch, terms, multiplier=1.0, teacher_values=mixed)
    kl = distillation_loss(q_values, expected.log(), TAU)
    torch.testing.assert_close(result.terms[1], (batch.importance_weights * kl).mean().detach(), rtol=1e-4, atol=1e-6)


def test_teachers_of_one_kind_share_a_temperature() -> None:
    assert temperatures_of([], TAU, CPU) is None
    assert temperatures_of([teacher("q_values"), teacher("q_values")], TAU, CPU) is None
    alone = temperatures_of([teacher("probabilities")], TAU, CPU)
    assert alone is not None
    assert alone.tolist() == [[1.0]]


def teacher(kind: TeacherKind) -> Teacher:
    record = TeacherRecord(
        id="some-01234567",
        name="some",
        kind=kind,
        env=EnvConfig(frame_size=42),
        network=NetworkConfig(),
        frame_shape=(42, 42),
        frame_stack=4,
        num_actions=6,
        weights=None,
    )
    return Teacher(record, new_state().online_network, CPU)


def test_a_gated_teacher_counts_only_where_the_student_thinks_well_of_its_action() -> None:
    state, batch = new_state(), new_batch()
    q_values = state.online_network(batch.observation).detach()
    best, worst = (torch.nn.functional.one_hot(act(dim=1), 6).float() for act in (q_values.argmax, q_values.argmin))
    gated = objective(state, teacher=TeacherConfig(combination="value_gated"))

    def distillation(*teachers: Tensor) -> float:
        values = torch.stack(teachers, dim=1)
        _, result = compute_loss(state, batch, gated, multiplier=1.0, teacher_values=values)
        return float(result.terms[TERMS.index("distillation_loss")])

    assert distillation(worst, worst) == 0.0
    assert distillation(worst, best) == pytest.approx(distillation(best, best))
    assert distillation(best, best) > 0


def test_a_step_moves_the_online_network_and_the_target_follows_its_period() -> None:
    state, batch = new_state(target_update_period=2), new_batch()
    weight, target = state.online_network.hidden.weight, state.target_network.hidden.weight
    before = weight.detach().clone()
    train_step(state, batch, objective(state), multiplier=1.0, teacher_values=labels(batch))
    assert not torch.equal(weight, before)
    assert torch.equal(target, before)
    train_step(state, batch, objective(state), multiplier=1.0, teacher_values=labels(batch))
    assert torch.equal(target, weight)
    assert state.learner_steps == 2


@pytest.mark.parametrize("head", ["q", "c51"])
def test_steps_lower_what_they_minimise(head: str) -> None:
    state, batch = new_state(head), new_batch()
    terms, losses = objective(state), list[float]()
    for _ in range(30):
        loss, _ = compute_loss(state, batch, terms, multiplier=1.0, teacher_values=labels(batch))
        losses.append(loss.item())
        train_step(state, batch, terms, multiplier=1.0, teacher_values=labels(batch))
    assert losses[-1] < 0.9 * losses[0]


def test_mixtures_are_weighted_by_scores_above_random() -> None:
    np.testing.assert_allclose(score_weights(np.array([10.0, -10.0, -21.0]), -20.0), [0.75, 0.25, 0.0])
    np.testing.assert_allclose(score_weights(np.array([-22.0, -21.0]), -20.0), [0.5, 0.5])
    assert score_weights(np.array([3.0]), 0.0).dtype == np.float32


@pytest.mark.gpu
@pytest.mark.parametrize("head", ["q", "c51"])
def test_a_cuda_device_takes_the_same_steps(head: str) -> None:
    def terms_after(device: torch.device, steps: int) -> list[float]:
        state, batch = new_state(head, device), new_batch(device)
        terms = objective(state)
        for _ in range(steps - 1):
            train_step(state, batch, terms, multiplier=1.0, teacher_values=labels(batch))
        result = train_step(state, batch, terms, multiplier=1.0, teacher_values=labels(batch))
        return [float(term) for term in result.terms]

    cuda = torch.device("cuda")
    np.testing.assert_allclose(terms_after(cuda, 1), terms_after(CPU, 1), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(terms_after(cuda, 10), terms_after(CPU, 10), rtol=2e-2, atol=1e-5)
