"""From the tensors of PyTorch networks to `q_network`: their layers are laid out as ours, under other names.

A framework says where it keeps its layers (`Layout`); shapes tell the width, the hidden units, the actions and the
frames of an observation. What fits none of its layouts is refused. PyTorch's nature networks pad nothing, its impala
ones pad their pools on every side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from teacher_store.importers.layers.network_shapes import (
    IMPALA,
    IMPALA_PLACES,
    MAX_ACTIONS,
    MAX_ATOMS,
    MAX_STACK,
    NATURE,
    NATURE_PLACES,
    Support,
    Weights,
    impala_size,
    nature_size,
    width_of,
)
from teacher_store.importers.readers.torch_file import TorchFile
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_named

_PARTS: Final = (".weight", ".bias")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a framework keeps the layers of a network: prefixes of ".weight" and ".bias".

    Attributes:
      kind: of the torso.
      convolutions: from the first to the last.
      hidden, head: the dense layers.
      others: how names of tensors begin that may stand beside, such as a critic's, and are left alone.
    """

    kind: Literal["nature", "impala"]
    convolutions: tuple[str, ...]
    hidden: str
    head: str
    others: tuple[str, ...] = ()

    @property
    def names(self) -> set[str]:
        """Of all its tensors but the others."""
        return {f"{layer}{part}" for layer in (*self.convolutions, self.hidden, self.head) for part in _PARTS}

    def fits(self, names: set[str]) -> bool:
        """Whether a network with tensors of these names is laid out so."""
        return self.names <= names and not self.beyond(names)

    def beyond(self, names: set[str]) -> set[str]:
        """Which of `names` have no place in it."""
        return {name for name in names - self.names if not name.startswith(self.others)}


def named(value: object, where: str) -> dict[str, object]:
    """`value`, if it is a dict by names, as a state dict is. Raises: CorruptDataError."""
    if not is_named(value):
        kind = type(value).__name__
        raise CorruptDataError(f"{where}: a {kind} where a state dict belongs, or one with other keys than names")
    return value


def choose_layout(tensors: Mapping[str, object], layouts: Sequence[Layout], where: str) -> Layout:
    """The layout of a network.

    Args:
      tensors: its state dict.
      layouts: those that its framework has.
      where: names the file in errors.
    Raises: CorruptDataError if tensors are missing, UserError if it is a network of another layout.
    """
    names = set(tensors)
    for layout in layouts:
        if layout.fits(names):
            return layout
    nearest = max(layouts, key=lambda layout: len(layout.names & names))
    missing, more = nearest.names - names, nearest.beyond(names)
    if missing and not more:
        raise CorruptDataError(f"{where}: missing: {_listed(missing)}")
    raise unsupported(where, f"a network with the tensors {_listed(more)}")


def convert(
    file: TorchFile,
    tensors: Mapping[str, object],
    layout: Layout,
    *,
    where: str,
    frame_shape: tuple[int, int],
    support: Support | None = None,
) -> Weights:
    """The network whose weights are `tensors`.

    Args:
      file: where they are from.
      tensors: with all of the layout's names.
      where: names the file in errors.
      frame_shape: (H, W) of what the network saw; the first dense layer must fit it.
      support: of a C51 head; None of any other.
    Raises: CorruptDataError if a shape or value is wrong; UserError for a sound network that is none of ours.
    """

    read = _Reader(file, tensors, where)
    bases, kernels, places, sizes = _torso(layout.kind, frame_shape)
    channels = list[int]()
    for layer, kernel, place in zip(layout.convolutions, kernels, places, strict=True):
        inputs = channels[-1] if channels else None
        channels.append(read.layer(layer, f"torso.{place}", (inputs, kernel, kernel))[0])
    width = width_of(channels, bases)
    if width is None:
        raise unsupported(where, f"convolutions of {channels} channels (multiples of {bases} are known)")
    frame_stack = read.ours[f"torso.{places[0]}.weight"].shape[1]
    if frame_stack > MAX_STACK:
        raise unsupported(where, f"a network that sees {frame_stack} frames")
    hidden, _ = read.layer(layout.hidden, "hidden", (channels[-1] * sizes[0] * sizes[1],))
    outputs, _ = read.layer(layout.head, "head", (hidden,))
    atoms = 1 if support is None else support.atoms
    if outputs % atoms or outputs // atoms > MAX_ACTIONS:
        what = f"a network with {outputs} outputs, which are not at most {MAX_ACTIONS} actions"
        raise unsupported(where, what + ("" if support is None else f" of {atoms} atoms each"))
    network = NetworkConfig(
        kind=layout.kind,
        width=width,
        hidden=hidden,
        padding="valid" if layout.kind == "nature" else "symmetric",
        head="q" if support is None else "c51",
    )
    if support is not None:
        network = network.model_copy(update={"atoms": support.atoms, "support_limit": support.limit})
    return Weights(network, read.ours, frame_stack, outputs // atoms)


def support_of(file: TorchFile, atoms: object, where: str) -> Support:
    """What the tensor of a C51 network's atoms says. Raises: CorruptDataError if they do not lie evenly around 0.

    Args:
      where: names file and tensor in errors.
    """
    values = file.array(atoms, where)
    if values.ndim == 1 and 2 <= len(values) <= MAX_ATOMS and values[-1] > 0:
        limit = float(values[-1])
        if np.allclose(values, np.linspace(-limit, limit, len(values)), rtol=0, atol=1e-5 * limit):
            return Support(len(values), limit)
    raise CorruptDataError(f"{where} are no atoms that lie evenly around 0")


def unsupported(where: str, what: str) -> UserError:
    """The error for a sound network that is none of ours."""
    remedy = "supported are Q and C51 networks and policies with a Nature or Impala torso and one hidden layer"
    return UserError("PATH", where, f"holds {what} that cannot be imported", remedy)


class _Reader:
    """Layers under our names.

    Attributes:
      ours: what was read, by the names of `QNetwork.state_dict`.
    """

    def __init__(self, file: TorchFile, tensors: Mapping[str, object], where: str) -> None:
        self._file, self._tensors, self._where = file, tensors, where
        self.ours = dict[str, Array]()

    def layer(self, theirs: str, ours: str, inputs: tuple[int | None, ...]) -> tuple[int, ...]:
        """Reads a layer and returns the shape of its weight: outputs first.

        Args:
          theirs, ours: its names.
          inputs: the shape of its weight, but for the outputs; None where any length will do.
        """
        weight, bias = (self._array(theirs + part) for part in _PARTS)
        if weight.ndim != 1 + len(inputs) or any(
            wanted not in (None, has) for wanted, has in zip(inputs, weight.shape[1:], strict=True)
        ):
            expected = ", ".join("*" if length is None else str(length) for length in (None, *inputs))
            raise CorruptDataError(f"{self._where}: {theirs}.weight has the shape {weight.shape}, not ({expected})")
        if bias.shape != weight.shape[:1]:
            raise CorruptDataError(f"{self._where}: {theirs}.bias has the shape {bias.shape}, not {weight.shape[:1]}")
        self.ours |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
        return weight.shape

    def _array(self, name: str) -> Array:
        return self._file.array(self._tensors[name], f"{self._where}: {name}")


def _torso(
    kind: Literal["nature", "impala"], frame_shape: tuple[int, int]
) -> tuple[list[int], list[int], list[str], list[int]]:
    """Channels at width 1, kernels and our names of a torso's convolutions, and the height and width of its output."""
    if kind == "impala":
        bases = [base for base in IMPALA for _ in range(5)]
        return bases, [3] * len(bases), list(IMPALA_PLACES), [impala_size(length) for length in frame_shape]
    places = [str(place) for place in NATURE_PLACES["valid"]]
    sizes = [nature_size(length, "valid") for length in frame_shape]
    return [base for base, _, _ in NATURE], [kernel for _, kernel, _ in NATURE], places, sizes


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:20])[:400]
