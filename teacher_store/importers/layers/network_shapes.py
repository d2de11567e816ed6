"""The networks of Atari agents, whatever framework they are from: their shapes, and where their layers are in ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from upcycle.config.run import NetworkConfig
from upcycle.experience.chunks import Array

NATURE: Final = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels at width 1, kernel and stride of each convolution."""
NATURE_PLACES: Final = {"same": (1, 4, 7), "valid": (0, 2, 4)}
"""Where they are in our torso, by padding."""
IMPALA: Final = (16, 32, 32)
"""Channels at width 1 of each stack."""
IMPALA_PLACES: Final = tuple(
    name
    for stack in range(len(IMPALA))
    for name in (
        str(4 * stack),
        *(f"{4 * stack + 2 + block}.{half}" for block in (0, 1) for half in ("first", "second")),
    )
)
"""Where the five convolutions of each stack are in our torso."""
MAX_ACTIONS: Final = 18
"""The console has no more. Outputs beyond are distributions."""
MAX_STACK: Final = 16
MAX_ATOMS: Final = 512
_MAX_WIDTH: Final = 8


class Support(NamedTuple):
    """Atoms of a C51 head, evenly from -limit to limit."""

    atoms: int
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A network in our terms.

    Attributes:
      network: which one.
      tensors: float32, by the names of `QNetwork.state_dict`.
      frame_stack: frames of one observation.
      num_actions: outputs.
    """

    network: NetworkConfig
    tensors: dict[str, Array]
    frame_stack: int
    num_actions: int


def width_of(channels: Sequence[int], bases: Sequence[int]) -> float | None:
    """The width at which convolutions of `bases` channels have `channels`; None if there is none.

    Args:
      bases: channels at width 1.
    """
    for width in (count / base for count, base in zip(channels, bases, strict=True)):
        if width <= _MAX_WIDTH and list(channels) == [max(1, round(base * width)) for base in bases]:
            return width
    return None


def nature_size(length: int, padding: Literal["same", "valid"]) -> int:
    """Height or width of what a nature network makes of frames of this height or width."""
    for _, kernel, stride in NATURE:
        length = -(-length // stride) if padding == "same" else (length - kernel) // stride + 1
    return length


def impala_size(length: int) -> int:
    """As `nature_size`, of an impala network."""
    return -(-length // 8)
