"""Loss terms of the configuration's own, beside the learner's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from learner.loss_terms import CustomTerm, LossInputs
from learner.measured_tuning import random_batch
from learner.objective import TERMS, Objective
from learner.train_state import TrainState
from learner.train_step import compute_loss
from upcycle.config.run import CqlConfig, DistillationConfig, LearnerConfig, LossTermConfig, MarginConfig, NetworkConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View
from upcycle.extensions import Extension
from upcycle.networks.q_network import build_network

CPU = torch.device("cpu")
SPEC = ChunkSpec(frame_shape=(4,), frame_dtype="float32", num_actions=3, steps=16, history=0, lookahead=1)


def squares(inputs: LossInputs, *, scale: float = 1.0) -> Tensor:
    assert inputs.teacher_log_policy is None
    return scale * inputs.outputs.q_values.square().sum(dim=1)


def term(*, is_active: bool = True, **config: object) -> CustomTerm:
    settings = LossTermConfig.model_validate({"use": "squares", "coefficient": 0.5} | config)
    return CustomTerm("squares", settings, Extension("loss_term", "squares", "", "", squares), is_active)


@pytest.mark.parametrize(
    ("custom", "part", "reported"),
    [
        (term(), 0.5, 1.0),
        (term(options={"scale": 3.0}), 1.5, 3.0),
        (term(fades=True), 0.5 * 0.25, 1.0),
        (term(is_active=False), 0.0, 0.0),
    ],
)
def test_a_term_is_weighed_and_reported(custom: CustomTerm, part: float, reported: float):
    torch.manual_seed(0)
    config = NetworkConfig(kind="mlp", hidden=8)
    state = TrainState(build_network(config, frame_shape=(4,), stack=1, num_actions=3), LearnerConfig(), CPU)
    batch = random_batch(SPEC, View(n_step=1, stack=1), 8, CPU)
    batch = replace(batch, importance_weights=torch.linspace(0.2, 1.0, 8))
    plain = Objective(LearnerConfig(), DistillationConfig(), MarginConfig(), CqlConfig(coefficient=0.1))
    without, _ = compute_loss(state, batch, plain, multiplier=0.25, teacher_values=None)
    loss, result = compute_loss(state, batch, replace(plain, custom=(custom,)), multiplier=0.25, teacher_values=None)
    mean = (batch.importance_weights * state.online_network(batch.observation).square().sum(dim=1)).mean()
    torch.testing.assert_close(loss - without, part * mean)
    assert len(result.terms) == len(TERMS) + 1
    torch.testing.assert_close(result.terms[-1], (reported * mean).detach())
