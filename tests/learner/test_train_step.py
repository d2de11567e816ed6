"""Gradient steps: both losses fall, and a CUDA device (`make test-gpu`) takes the same steps as the CPU."""

import numpy as np
import pytest
import torch

from learner.batches import FrameBuffers
from learner.train_state import TrainState
from learner.train_step import train_step
from replay_service.sharding import SampledBatch, TransitionKeys
from upcycle.config import DistillationConfig, LearnerConfig, NetworkConfig
from upcycle.networks import build_network
from upcycle.windows import View, Windows

VIEW = View(n_step=3, stack=4)


def sampled(batch_size: int) -> SampledBatch:
    rng, index = np.random.default_rng(0), np.arange(batch_size)
    windows = Windows(
        frames=rng.integers(0, 256, (batch_size, 7, 42, 42), np.uint8),
        action=rng.integers(0, 6, batch_size),
        n_step_return=rng.normal(size=batch_size).astype(np.float32),
        discount=np.full(batch_size, 0.97, np.float32),
    )
    keys = TransitionKeys(index, index, index, index)
    return SampledBatch(windows, keys, np.full(batch_size, 0.1), np.ones(batch_size, np.float32), index)


def step_on(device: str, steps: int) -> tuple[float, float]:
    torch.manual_seed(0)
    config = NetworkConfig(width=0.5, hidden=64, padding="same")
    network = build_network(config, frame_shape=(42, 42), stack=4, num_actions=6)
    state = TrainState(network, LearnerConfig(), torch.device(device))

    def teacher(observation: torch.Tensor) -> torch.Tensor:
        return torch.arange(6.0, device=observation.device).expand(len(observation), 6) * 0.1

    batch, losses = FrameBuffers(state.device).to_batch(sampled(32), VIEW), (0.0, 0.0)
    for _ in range(steps):
        result = train_step(
            state, batch, learner=LearnerConfig(), distillation=DistillationConfig(), multiplier=1.0, teacher=teacher
        )
        losses = float(result.td_loss), float(result.distillation_loss)
    return losses


def test_steps_lower_both_losses_on_the_cpu() -> None:
    first, later = step_on("cpu", 1), step_on("cpu", 30)
    assert later[1] < first[1]
    assert sum(later) < sum(first)


@pytest.mark.gpu
def test_a_cuda_device_takes_the_same_steps() -> None:
    np.testing.assert_allclose(step_on("cuda", 1), step_on("cpu", 1), rtol=1e-3)
    np.testing.assert_allclose(step_on("cuda", 10), step_on("cpu", 10), rtol=2e-2)
