"""The behaviour policy: batched Q values on a CPU, and epsilon-greedy actions."""

from collections.abc import Mapping

import numpy as np
import torch

from actors.lanes import EnvSpec
from upcycle.config.run import NetworkConfig
from upcycle.experience.chunks import Array
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import load_into


class QPolicy:
    """A Q network for acting, without gradients.

    Args:
      config: the network.
      spec: the environment it acts in.
      threads: torch's threads, for the whole process; None keeps the current number.
      noisy: draw the noise of `noisy` layers afresh for every batch, to explore (Fortunato et al. 2018, section 3.1);
        otherwise they use the means of their weights. Other networks are unaffected.
    """

    def __init__(
        self, config: NetworkConfig, spec: EnvSpec, *, threads: int | None = None, noisy: bool = False
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._network = build_network(
            config, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions
        ).train(noisy)

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Replaces all weights. Raises: CorruptDataError if they do not fit, and keeps the current ones."""
        load_into(self._network, tensors)

    def q_values(self, observation: Array) -> Array:
        """float32 [M, A] for uint8 [M, stack, H, W] or float32 [M, 1, D]."""
        with torch.inference_mode():
            return self._network(torch.from_numpy(observation)).numpy()


def epsilon_greedy(q_values: Array, epsilons: float | Array, rng: np.random.Generator) -> Array:
    """Actions, int64 [M]: uniform with probability epsilon, else the first of the largest Q value.

    Args:
      q_values: [M, A].
      epsilons: one for all rows, or [M].
    """
    num_rows, num_actions = len(q_values), int(q_values.shape[1])
    explore: Array = np.less(rng.random(num_rows), epsilons)
    return np.where(explore, rng.integers(num_actions, size=num_rows), q_values.argmax(axis=1))
