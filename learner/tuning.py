"""How a learner computes on its device: threads, memory format, precision, compilation. Pure choices."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch

from upcycle.config.run import LearnerConfig


@dataclass(frozen=True, slots=True)
class Tuning:
    """One way to compute a learner step.

    Attributes:
      threads: torch's threads on a CPU; 0 keeps the current number.
      channels_last: memory format of frames and convolutions; else contiguous.
      bfloat16: precision of convolutions and hidden layer; else float32.
      compiled: by torch.compile.
    """

    threads: int = 0
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def describe(self) -> str:
        """A short description for people."""
        words = ["bfloat16" if self.bfloat16 else "float32", "channels last" if self.channels_last else "contiguous"]
        words += ["compiled"] if self.compiled else []
        return ", ".join([*words, f"{self.threads} thread{'s' * (self.threads != 1)}"] if self.threads else words)


def candidates(config: LearnerConfig, device: torch.device, *, cores: int) -> list[Tuning]:
    """The ways that the configuration allows, the plainest first.

    Precision is not measured: auto uses bfloat16 wherever the device multiplies it in hardware.
    """
    threads = [config.threads] if config.threads or device.type != "cpu" else list(_powers_of_two(cores))
    formats = {"contiguous": [False], "channels_last": [True], "auto": [False, True]}[config.memory_format]
    compiled = {"off": [False], "on": [True], "auto": [False, True]}[config.compile]
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device))
    return [Tuning(count, last, bfloat16, fused) for fused, last, count in product(compiled, formats, threads)]


def untuned(config: LearnerConfig, device: torch.device) -> Tuning:
    """The plainest candidate, without a measurement."""
    return candidates(config, device, cores=1)[0]


def _powers_of_two(cores: int) -> Iterator[int]:
    count = 1
    while count < cores:
        yield count
        count *= 2
    yield cores


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware; elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older releases of torch do not tell; float32 is safe on every processor.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_device(name: str) -> torch.device:
    """The device of `learner.device`. Raises ValueError if CUDA is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("learner.device is cuda, and torch sees no CUDA device; set learner.device=auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
