"""What training changes: online and target network, their averaged policy, optimizer, learner steps."""

import copy
from typing import Any

import torch

from learner.optimizers import build_optimizer
from upcycle.config import LearnerConfig
from upcycle.networks import QNetwork


class TrainState:
    """Owner of everything a gradient step touches, on one device.

    Guarantee: `state_dict` and `load_state_dict` round-trip exactly; a restored state takes the very next step.

    Attributes:
      policy_network: what actors and evaluator play: the average of the online network's weights over recent steps,
        or the online network itself where `learner.weight_average_decay` is 0.
    """

    def __init__(self, network: QNetwork, config: LearnerConfig, device: torch.device) -> None:
        self.device = device
        network.bfloat16_torso = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device))
        self.online_network = network.to(device)
        self.target_network = copy.deepcopy(self.online_network).requires_grad_(False)
        self._average_decay = config.weight_average_decay
        self.policy_network = self.online_network
        if self._average_decay > 0:
            self.policy_network = copy.deepcopy(self.online_network).requires_grad_(False)
        self.optimizer = build_optimizer(self.online_network.parameters(), config)
        self.learner_steps = 0

    def sync_target(self) -> None:
        """Hard copy of the online network into the target network."""
        self.target_network.load_state_dict(self.online_network.state_dict())

    @torch.no_grad()
    def average_weights(self) -> None:
        """Moves the policy network towards the online network: average = d average + (1 - d) online.

        d rises to `learner.weight_average_decay` as (1 + t) / (10 + t), so that the random weights of the first steps
        are soon forgotten. Source: Polyak and Juditsky 1992; the exponential form and its warm-up are TensorFlow's
        ExponentialMovingAverage.
        """
        if self.policy_network is self.online_network:
            return
        decay = min(self._average_decay, (1 + self.learner_steps) / (10 + self.learner_steps))
        pairs = zip(self.policy_network.parameters(), self.online_network.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter, 1.0 - decay)

    def set_learning_rate(self, value: float) -> None:
        """Applies `value` to every parameter group."""
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
        """Inverse of `state_dict`; an average that the state does not have begins at its online network."""
        self.online_network.load_state_dict(state["online_network"])
        self.target_network.load_state_dict(state["target_network"])
        if self.policy_network is not self.online_network:
            self.policy_network.load_state_dict(state.get("policy_network", state["online_network"]))
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner_steps = int(state["learner_steps"])


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older releases of torch cannot tell; float32 is right on every processor.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_device(name: str) -> torch.device:
    """The device of `learner.device`. Raises ValueError if CUDA is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("learner.device is cuda, and torch sees no CUDA device; set learner.device=auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
