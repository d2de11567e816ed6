"""Optimizers of the published agents."""

# torch's operations over lists of tensors, which its own optimizers are made of, have names that begin with _foreach.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from upcycle.config.run import LearnerConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: LearnerConfig) -> torch.optim.Optimizer:
    """The optimizer of `learner.optimizer`, over all of `parameters`, which lie on one device.

    Adam's epsilon is added after bias correction (optax, torch; TensorFlow 1 differs).
    """
    _leave_compiler_out()
    if config.optimizer == "adam":
        return Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return CentredRMSProp(
        parameters, learning_rate=config.learning_rate, decay=config.rmsprop_decay, epsilon=config.rmsprop_epsilon
    )


def _leave_compiler_out() -> None:
    """Spares a process the import of torch._dynamo, which takes as long as that of PyTorch itself.

    The methods of an optimizer import it on their first call, to keep themselves out of compiled graphs. Ours are never
    called from one: only networks are compiled. In a PyTorch whose internals differ this does nothing.
    """
    for method in vars(torch.optim.Optimizer).values():
        if inspect.isfunction(method) and method.__code__.co_filename.endswith("_compile.py"):
            original: Any = inspect.unwrap(method)
            original.__dynamo_disable = original


class Adam(torch.optim.Adam):
    """PyTorch's own, whose step imports no compiler either."""

    step = torch.no_grad()(cast(Callable[..., None], inspect.unwrap(cast(Any, torch.optim.Adam.step))))


class CentredRMSProp(torch.optim.Optimizer):
    """RMSProp with the variance of gradients for its scale, without momentum: Nature DQN's optimizer.

    m <- d m + (1 - d) g;  v <- d v + (1 - d) g^2;  w <- w - lr g / sqrt(v - m^2 + epsilon)

    Epsilon is inside the root, as in TensorFlow and optax; `torch.optim.RMSprop` adds it outside, where a gradient of
    1e-3 and an epsilon of 1e-5 make a step 316 times as large. Both averages begin at 0, as optax has it.

    Args:
      parameters: parameters, or groups of them with an `lr` of their own.
      learning_rate: lr > 0; key `lr` of each group.
      decay: d, in [0, 1).
      epsilon: > 0.
    Source: Mnih et al. 2015, extended data table 1; Graves 2013 (arXiv 1308.0850), eq. 38 to 41.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        learning_rate: float,
        decay: float,
        epsilon: float,
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "decay": decay, "epsilon": epsilon})

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the gradients; parameters without one stay."""
        assert closure is None, "gradients are computed before the step"
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(parameters, group["lr"], group["decay"], group["epsilon"])

    def _step_group(self, parameters: list[Tensor], learning_rate: float, decay: float, epsilon: float) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["mean"] = torch.zeros_like(parameter)
                self.state[parameter]["mean_square"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means = [self.state[parameter]["mean"] for parameter in parameters]
        squares = [self.state[parameter]["mean_square"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - decay)
        torch._foreach_mul_(squares, decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - decay)
        variances = torch._foreach_addcmul(squares, means, means, -1.0)
        torch._foreach_clamp_min_(variances, 0.0)  # v >= m^2 but for rounding, which may exceed epsilon
        torch._foreach_add_(variances, epsilon)
        torch._foreach_sqrt_(variances)
        torch._foreach_addcdiv_(parameters, gradients, variances, -learning_rate)
