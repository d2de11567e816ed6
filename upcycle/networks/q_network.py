"""Q networks, built from a configuration and the shape of an observation."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from upcycle.config.run import NetworkConfig
from upcycle.networks.custom_parts import custom_head, custom_torso
from upcycle.networks.network_parts import DuelingHead, NoisyLinear, impala_torso, initialise, nature_torso


def build_network(config: NetworkConfig, *, frame_shape: tuple[int, ...], stack: int, num_actions: int) -> "QNetwork":
    """A Q network with weights drawn by `network_parts.initialise` from torch's global generator.

    Args:
      config: of the network.
      frame_shape: (H, W) of an image or (D,) of a vector.
      stack: frames of one observation.
      num_actions: size of the action set.
    Raises: ValueError if the network cannot see such frames; UserError naming an extension that fails.
    """
    if config.custom_torso:
        torso, features = custom_torso(config, frame_shape=frame_shape, stack=stack)
    else:
        torso, features = _torso(config, frame_shape=frame_shape, stack=stack)
    network = QNetwork(torso, features, config, num_actions=num_actions)
    # Parts of the user's own keep the weights that they were built with.
    parts = ((network.torso, config.custom_torso), (network.hidden, ""), (network.head, config.custom_head))
    for part, is_custom in parts:
        if not is_custom:
            initialise(part)
    return network


def _torso(config: NetworkConfig, *, frame_shape: tuple[int, ...], stack: int) -> tuple[nn.Module, int]:
    if (config.kind == "mlp") != (len(frame_shape) == 1):
        kind = "vectors" if len(frame_shape) == 1 else "images"
        raise ValueError(f"network.kind {config.kind!r} does not see {kind} of shape {frame_shape}")
    if config.kind == "mlp":
        dense = _dense(stack * frame_shape[0], config.hidden, config)
        return nn.Sequential(nn.Flatten(), dense, nn.ReLU()), config.hidden
    build = nature_torso if config.kind == "nature" else impala_torso
    return build(stack, frame_shape, width=config.width, padding=config.padding)


class Outputs(NamedTuple):
    """Outputs of a Q network for a batch of observations.

    Attributes:
      q_values: float32 [B, A]; of a c51 head the means of its distributions.
      logits: of a c51 head, float32 [B, A, atoms]; None for a q head.
    """

    q_values: Tensor
    logits: Tensor | None


class QNetwork(nn.Module):
    """Action values of a batch of observations.

    Observations are uint8 [B, stack, H, W] (scaled to [0, 1] inside) or float32 [B, stack, D], in any memory format.

    Attributes:
      support: atoms of a c51 head, ascending and evenly spaced, float32 [atoms]; None for a q head. Not in
        the state_dict, since the configuration determines it.
      in_bfloat16: compute convolutions and the hidden layer in bfloat16, off by default; parameters, head and values
        stay float32.
    """

    support: Tensor | None

    def __init__(self, torso: nn.Module, features: int, config: NetworkConfig, *, num_actions: int) -> None:
        super().__init__()
        self.in_bfloat16 = False
        self.torso = torso
        self.hidden = _dense(features, config.hidden, config)
        atoms = config.atoms if config.head == "c51" else 1
        self.head = _head(config, num_actions=num_actions, atoms=atoms)
        limit = config.support_limit
        support = torch.linspace(-limit, limit, atoms) if config.head == "c51" else None
        self.register_buffer("support", support, persistent=False)

    @override
    def forward(self, observation: Tensor) -> Tensor:
        """Q values, float32 [B, A]."""
        return self.outputs(observation).q_values

    def outputs(self, observation: Tensor) -> Outputs:
        """Q values and, for a c51 head, the logits of their distributions."""
        if observation.dtype == torch.uint8:
            observation = observation.float().mul_(1 / 255)
        bfloat16 = self.in_bfloat16 and observation.dim() > 3  # not worth it for vectors
        with torch.autocast(observation.device.type, torch.bfloat16, enabled=bfloat16):
            hidden = self.hidden(self.torso(observation))
        # In float32: values of near-equal actions differ by less than bfloat16 resolves.
        values = self.head(torch.relu(hidden.to(self.hidden.weight.dtype)))  # [B, A * atoms]
        if self.support is None:
            return Outputs(values, None)
        logits = values.unflatten(1, (-1, len(self.support)))  # [B, A, atoms]
        return Outputs((logits.softmax(dim=2) * self.support).sum(dim=2), logits)


def _head(config: NetworkConfig, *, num_actions: int, atoms: int) -> nn.Module:
    if config.custom_head:
        return custom_head(config, num_actions=num_actions, atoms=atoms)
    head = _dense(config.hidden, num_actions * atoms, config)
    return DuelingHead(_dense(config.hidden, atoms, config), head) if config.dueling else head


def _dense(inputs: int, outputs: int, config: NetworkConfig) -> nn.Linear:
    return NoisyLinear(inputs, outputs, sigma=config.noisy_sigma) if config.noisy else nn.Linear(inputs, outputs)
