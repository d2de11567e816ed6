"""The update of CleanRL's QDagger, written from its public description: what the learner's train step is beside."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from learner.batches import Batch
from upcycle.networks.q_network import QNetwork

_LEARNING_RATE = 1e-4


def plain_update(online: QNetwork, teacher: QNetwork, batch: Batch) -> Callable[[], None]:
    """One update on a batch that stays where it is: float32, contiguous, the teacher's own forward pass each time.

    Args:
      online: with a q head; it is trained. Its copy is the target network.
      teacher: as large, on the same device.
    """
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters(), lr=_LEARNING_RATE)
    observation, following = batch.observation.contiguous(), batch.next_observation.contiguous()

    def step() -> None:
        with torch.no_grad():
            best = target(following).max(dim=1).values
            wanted = batch.n_step_return + batch.discount * best
            teacher_q_values: Tensor = teacher(observation)
        q_values: Tensor = online(observation)
        taken = q_values.gather(1, batch.action.unsqueeze(1)).squeeze(1)
        loss = functional.mse_loss(wanted, taken) + functional.kl_div(
            functional.log_softmax(q_values, dim=1), functional.softmax(teacher_q_values, dim=1), reduction="sum"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
