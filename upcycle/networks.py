"""Q networks, built from a configuration and the shape of an observation.

Source: Mnih et al. 2015 (nature); Espeholt et al. 2018, fig. 3 right, without its LSTM (impala, 15 convolutions).
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from upcycle.config import NetworkConfig


def build_network(config: NetworkConfig, *, frame_shape: tuple[int, ...], stack: int, num_actions: int) -> "QNetwork":
    """A Q network with freshly drawn weights (Xavier uniform, zero biases) from torch's global generator.

    Args:
      config: which network.
      frame_shape: (H, W) of an image or (D,) of a vector.
      stack: frames of one observation.
      num_actions: size of the action set.
    Raises: ValueError if the network cannot see such frames.
    """
    if (config.kind == "mlp") != (len(frame_shape) == 1):
        kind = "vectors" if len(frame_shape) == 1 else "images"
        raise ValueError(f"network.kind {config.kind!r} does not see {kind} of shape {frame_shape}")
    if config.kind == "mlp":
        torso: nn.Module = _mlp(stack * frame_shape[0], config.hidden)
    elif config.kind == "nature":
        torso = _nature(stack, frame_shape, config)
    else:
        torso = _impala(stack, config.width)
    network = QNetwork(torso, config, frame_shape=frame_shape, stack=stack, num_actions=num_actions)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return network


class QNetwork(nn.Module):
    """Action values of a batch of observations.

    forward: uint8 [B, stack, H, W] (scaled to [0, 1] inside) or float32 [B, stack, D]; returns float32 [B, A].

    Attributes:
      bfloat16_torso: compute the torso in bfloat16, off at first; parameters and dense layers stay float32.
    """

    def __init__(
        self, torso: nn.Module, config: NetworkConfig, *, frame_shape: tuple[int, ...], stack: int, num_actions: int
    ) -> None:
        super().__init__()
        self.torso = torso
        self.bfloat16_torso = False
        with torch.no_grad():
            features = self.torso(torch.zeros(1, stack, *frame_shape)).shape[1]
        self.hidden = nn.Linear(features, config.hidden)
        self.head = nn.Linear(config.hidden, num_actions)

    @override
    def forward(self, observation: Tensor) -> Tensor:
        if observation.dtype == torch.uint8:
            observation = observation.float().mul_(1 / 255)
        with torch.autocast(observation.device.type, torch.bfloat16, enabled=self.bfloat16_torso):
            features = self.torso(observation)
        return self.head(torch.relu(self.hidden(features.to(self.head.weight.dtype))))


def _mlp(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU())


def _nature(stack: int, frame_shape: tuple[int, ...], config: NetworkConfig) -> nn.Module:
    layers: list[nn.Module] = []
    channels, size = stack, frame_shape
    for base, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        if config.padding == "same":
            (top, bottom), (left, right) = (same_padding(length, kernel, stride) for length in size)
            layers.append(nn.ZeroPad2d((left, right, top, bottom)))
            size = tuple(-(-length // stride) for length in size)
        outputs = _channels(base, config.width)
        layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers, nn.Flatten())


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis for which TensorFlow and Flax say SAME: ceil(length / stride) outputs.

    An odd number of zeros puts the extra one after, which is why no symmetric padding can stand in for it.
    """
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _impala(stack: int, width: float) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = stack
    for base in (16, 32, 32):
        channels = _channels(base, width)
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
        layers += [_Residual(channels), _Residual(channels)]
        inputs = channels
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten())


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), shapes kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    @override
    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(torch.relu(self.first(torch.relu(features))))


def _channels(base: int, width: float) -> int:
    return max(1, round(base * width))
