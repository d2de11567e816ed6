"""The state that training changes: online, target and averaged policy network, optimizer, learner steps."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from learner.optimizers import build_optimizer
from learner.tuning import Tuning, untuned
from upcycle.config.run import LearnerConfig
from upcycle.networks.q_network import Outputs, QNetwork
from upcycle.networks.torch_io import load_into
from upcycle.runs.snapshots import Tensors


class _Forward(nn.Module):
    """A network's outputs as a forward pass, which can be compiled and distributed."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, observation: Tensor) -> Outputs:
        return self.network.outputs(observation)


class TrainState:
    """Everything a gradient step changes, on one device.

    Guarantee: `state_dict` and `load_state_dict` round-trip exactly; a restored state takes the same next step.

    Args:
      network: with its initial weights; becomes the online network.
      tuning: how to compute; by default the plainest way that `config` allows.
      wrap: distributes the online network's forward pass over several ranks; the identity by default.
      frozen_torso: do not train the torso. The optimizer lists its parameters all the same, to keep their numbering.

    Attributes:
      config: of the optimizer and the averages.
      online, target: forward passes, uint8 or float32 observations to `Outputs`.
      policy_network: what actors and evaluator play: the average of the online network's weights over recent steps,
        or the online network itself where `learner.weight_average_decay` is 0.
    """

    def __init__(
        self,
        network: QNetwork,
        config: LearnerConfig,
        device: torch.device,
        *,
        tuning: Tuning | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        frozen_torso: bool = False,
    ) -> None:
        self.device, self.config = device, config
        tuning = tuning or untuned(config, device)
        network.in_bfloat16 = tuning.bfloat16
        if tuning.channels_last:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.online_network = network.to(device)
        network.torso.requires_grad_(not frozen_torso)
        self.online = wrap(_Forward(self.online_network))  # now all ranks have rank 0's weights
        self.target_network = copy.deepcopy(self.online_network).requires_grad_(False)
        self.target = _Forward(self.target_network)
        self._average_decay = config.weight_average_decay
        self.policy_network = self.online_network
        if self._average_decay > 0:
            self.policy_network = copy.deepcopy(self.online_network).requires_grad_(False)
        if tuning.compiled:
            self.online.compile()
            self.target.compile()
        self.optimizer = build_optimizer(self.online_network.parameters(), config)
        self.learner_steps = 0

    def sync_target(self) -> None:
        """Copies the online network to the target network."""
        self.target_network.load_state_dict(self.online_network.state_dict())

    def reset_optimizer(self) -> None:
        """Replaces the optimizer by a fresh one."""
        self.optimizer = build_optimizer(self.online_network.parameters(), self.config)

    def load_network(self, network: QNetwork) -> None:
        """Copies the weights of a network of the same architecture to the online, target and policy networks."""
        for own in (self.online_network, self.target_network, self.policy_network):
            own.load_state_dict(network.state_dict())

    def load_torso(self, tensors: Tensors) -> None:
        """Copies the weights of a torso to the online, target and policy networks.

        Raises: CorruptDataError if a name or a shape differs, or a value is not finite.
        """
        for own in (self.online_network, self.target_network, self.policy_network):
            load_into(own.torso, tensors)

    @torch.no_grad()
    def average_weights(self) -> None:
        """Moves the policy network towards the online network: average = d average + (1 - d) online.

        d rises to `learner.weight_average_decay` as (1 + t) / (10 + t), so that the random weights of the first steps
        soon fade. Source: Polyak and Juditsky 1992; the exponential form and its warm-up are TensorFlow's
        ExponentialMovingAverage.
        """
        if self.policy_network is self.online_network:
            return
        decay = min(self._average_decay, (1 + self.learner_steps) / (10 + self.learner_steps))
        averages: list[Tensor] = list(self.policy_network.parameters())
        parameters: list[Tensor] = list(self.online_network.parameters())
        torch._foreach_lerp_(averages, parameters, 1.0 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def set_learning_rate(self, value: float) -> None:
        """Sets the learning rate of every parameter group."""
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint."""
        return {
            "online_network": self.online_network.state_dict(),
            "target_network": self.target_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learner_steps": self.learner_steps,
            **({"policy_network": self.policy_network.state_dict()} if self._average_decay > 0 else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; without an average in the state, it starts at the online network."""
        self.online_network.load_state_dict(state["online_network"])
        self.target_network.load_state_dict(state["target_network"])
        if self.policy_network is not self.online_network:
            self.policy_network.load_state_dict(state.get("policy_network", state["online_network"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner_steps = int(state["learner_steps"])


def generator_states(device: torch.device) -> Tensor:
    """States of torch's random generators that a step may draw from (noisy networks), uint8 [n] on the host."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def restore_generators(states: Tensor, device: torch.device) -> None:
    """Inverse of `generator_states`."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(states[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[size:], device)
