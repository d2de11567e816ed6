"""Parts of Q networks: torsos, dense layers and heads. Assembled by `upcycle.networks.q_network`.

Torsos end flat, [B, features], in the order channel, row, column, in any memory format.
Source: Mnih et al. 2015 (nature); Espeholt et al. 2018, fig. 3 right, without its LSTM (impala, 15 convolutions).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

_TRUNCATED_DEVIATION = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is cut off at -2 and 2."""


def nature_torso(
    stack: int, frame_shape: tuple[int, ...], *, width: float, padding: Literal["same", "valid", "symmetric"]
) -> tuple[nn.Sequential, int]:
    """Three convolutions with ReLU. Returns: the torso, and its number of features.

    Raises: ValueError if frames of this size are too small.
    """
    layers: list[nn.Module] = []
    channels, size = stack, frame_shape
    for base, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        outputs = _channels(base, width)
        around: int | tuple[int, ...] = 0
        if padding == "same":
            (top, bottom), (left, right) = (same_padding(length, kernel, stride) for length in size)
            symmetric = top == bottom and left == right
            around = (top, left) if symmetric else 0  # the convolution's own padding makes no copy
            # Weight names count layers, so every convolution has a layer before it.
            layers.append(nn.Identity() if symmetric else nn.ZeroPad2d((left, right, top, bottom)))
            size = tuple(-(-length // stride) for length in size)
        else:
            size = tuple((length - kernel) // stride + 1 for length in size)
        if min(size) < 1:
            raise ValueError(
                f"network.padding {padding!r} leaves nothing of frames of shape {frame_shape} in a nature network; "
                "set network.padding=same, or use larger frames"
            )
        layers += [nn.Conv2d(channels, outputs, kernel, stride, padding=around), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers, nn.Flatten()), channels * math.prod(size)


def impala_torso(
    stack: int, frame_shape: tuple[int, ...], *, width: float, padding: Literal["same", "valid", "symmetric"]
) -> tuple[nn.Sequential, int]:
    """Three stacks of convolution, max-pool and two residual blocks. Returns: the torso, and its number of features.

    `padding` only affects the pools, whose padding counts as -inf.
    """
    layers: list[nn.Module] = []
    channels, size = stack, frame_shape
    for base in (16, 32, 32):
        outputs = _channels(base, width)
        layers += [nn.Conv2d(channels, outputs, 3, padding=1)]
        if padding == "same":
            top, left = (same_padding(length, 3, 2)[0] for length in size)
            # ceil_mode lets the last window reach past the edge, in place of zeros after the axis.
            layers.append(nn.MaxPool2d(3, 2, padding=(top, left), ceil_mode=True))
        else:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        layers += [Residual(outputs), Residual(outputs)]
        channels, size = outputs, tuple(-(-length // 2) for length in size)
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten()), channels * math.prod(size)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis under SAME padding in TensorFlow and Flax: ceil(length / stride) outputs.

    The extra zero of an odd number goes after the axis, so symmetric padding cannot replace it.
    """
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def _channels(base: int, width: float) -> int:
    return max(1, round(base * width))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), shapes kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    @override
    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(torch.relu(self.first(torch.relu(features))))


class NoisyLinear(nn.Linear):
    """A dense layer with factorised Gaussian noise: y = (w + sigma_w * f(e_out) f(e_in)^T) x + b + sigma_b * f(e_out).

    f(e) = sign(e) sqrt(|e|). In training mode every forward pass draws fresh noise for the whole batch, e_in
    first, from the generator of the weights' device; in evaluation mode y = w x + b. Means begin
    uniform within +-1 / sqrt(inputs), deviations at sigma / sqrt(inputs).

    Source: Fortunato et al. 2018 (arXiv 1706.10295), section 3, (b), and 3.2.
    """

    def __init__(self, inputs: int, outputs: int, *, sigma: float) -> None:
        super().__init__(inputs, outputs)
        self.weight_sigma = nn.Parameter(torch.empty(outputs, inputs))
        self.bias_sigma = nn.Parameter(torch.empty(outputs))
        bound = 1 / math.sqrt(inputs)
        for mean, deviation in ((self.weight, self.weight_sigma), (self.bias, self.bias_sigma)):
            nn.init.uniform_(mean, -bound, bound)
            nn.init.constant_(deviation, sigma * bound)

    @override
    def forward(self, input: Tensor) -> Tensor:
        mean = super().forward(input)
        if not self.training:
            return mean
        noise_in, noise_out = self._noise(self.in_features), self._noise(self.out_features)
        # The noise is an outer product: applied to both ends, it needs no noisy copy of the weights.
        return mean + functional.linear(input * noise_in, self.weight_sigma, self.bias_sigma) * noise_out

    def _noise(self, size: int) -> Tensor:
        noise = torch.randn(size, device=self.weight.device, dtype=self.weight.dtype)
        return noise.sign() * noise.abs().sqrt()


class DuelingHead(nn.Module):
    """V + Adv - mean over actions of Adv, atom by atom: [B, hidden] -> [B, A * atoms], index a * atoms + j.

    Args:
      value: dense layer with `atoms` outputs.
      advantage: dense layer with A * atoms outputs.
    Source: Wang et al. 2016 (arXiv 1511.06581), eq. 9; per atom as Hessel et al. 2018 (arXiv 1710.02298).
    """

    def __init__(self, value: nn.Linear, advantage: nn.Linear) -> None:
        super().__init__()
        self.value, self.advantage = value, advantage

    @override
    def forward(self, features: Tensor) -> Tensor:
        value = self.value(features).unsqueeze(1)  # [B, 1, atoms]
        advantage = self.advantage(features).unflatten(1, (-1, value.shape[2]))  # [B, A, atoms]
        return (value + advantage - advantage.mean(dim=1, keepdim=True)).flatten(1)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draws fresh weights as Dopamine does: Xavier uniform, residual convolutions LeCun normal, biases zero.

    Noisy layers keep their initial weights. LeCun normal is Flax's: truncated at two deviations, and rescaled so that
    the variance is 1 / fan_in.
    """
    residual = {conv for block in network.modules() if isinstance(block, Residual) for conv in block.children()}
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or isinstance(module, NoisyLinear):
            continue
        if module in residual:
            deviation = 1 / math.sqrt(module.weight[0].numel()) / _TRUNCATED_DEVIATION
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        else:
            nn.init.xavier_uniform_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
