"""From the arrays of Flax and TensorFlow networks to `q_network`: which network they are, and its weights.

Flax and TensorFlow keep convolutions as HWIO, dense layers as (inputs, outputs), and flatten rows, columns, channels;
ours (torch's) are OIHW, (outputs, inputs), and channels, rows, columns. What shapes tell is read from them: width,
hidden units, actions, frames of an observation. A network that is none of ours is refused.

Source of names and order of layers: the networks of Dopamine and of Reincarnating RL, and CleanRL's `dqn_atari_jax`,
`c51_atari_jax` and `qdagger_dqn_atari_jax_impalacnn`. Dueling heads put the advantages first.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

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
from teacher_store.importers.readers.flax_layers import Layer, read_layers, unsupported
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_STACK: Final = re.compile(r"(?:encoder/)?(?:Stack_|_stacks_|ConvSequence_)([0-2])/(?:ResidualBlock_([01])/)?Conv_(\d)")
_NOISY_SIGMA: Final = 0.1
"""Dopamine's initial scale of noise."""


def convert(
    arrays: Mapping[str, object],
    *,
    where: str,
    frame_shape: tuple[int, int],
    nature_padding: Literal["same", "valid"],
    support: Support | None = None,
) -> Weights:
    """The network that `arrays` are the weights of.

    Args:
      arrays: by the names of Flax's Linen, "Conv_0/kernel".
      where: names the file in errors.
      frame_shape: (H, W) of what the network saw; the first dense layer must fit it.
      nature_padding: of the framework's nature networks; impala ones have SAME in all frameworks.
      support: of a head that is known to be a C51 one. None: it is one if it has more outputs than the console has
        actions, with Dopamine's 51 atoms unless a dueling head tells, from -10 to 10.
    Raises: CorruptDataError if names are missing or left over, or a shape or value is wrong; UserError for a sound
      network that is none of ours.
    """
    layers = read_layers(arrays, where)
    convolutions = {name: layer for name, layer in layers.items() if layer.kernel.ndim == 4}
    if not convolutions:
        raise unsupported(where, "a network without convolutions")
    is_nature = "Conv_0" in convolutions
    torso = _nature(convolutions, where, nature_padding) if is_nature else _impala(convolutions, where)
    padding = nature_padding if is_nature else "same"
    rows, columns = (nature_size(length, padding) if is_nature else impala_size(length) for length in frame_shape)
    flat = (rows, columns, torso.channels)
    dense = _dense(
        {name: layer for name, layer in layers.items() if name not in convolutions}, where, flat, frame_shape
    )
    num_actions, support = _outputs(dense, where, support)
    names = ("hidden", "head.advantage", "head.value") if len(dense) == 3 else ("hidden", "head")
    tensors = torso.tensors
    for name, layer in zip(names, dense, strict=True):
        tensors |= _dense_tensors(name, layer, flat if name == "hidden" else None)
    network = NetworkConfig(
        kind="nature" if is_nature else "impala",
        width=torso.width,
        hidden=dense[0].outputs,
        padding=padding,
        head="q" if support is None else "c51",
        dueling=len(dense) == 3,
        noisy=dense[0].deviations is not None,
    )
    if support is not None:
        network = network.model_copy(update={"atoms": support.atoms, "support_limit": support.limit})
    if network.noisy:
        network = network.model_copy(update={"noisy_sigma": _NOISY_SIGMA})
    return Weights(network, tensors, torso.frame_stack, num_actions)


class _Torso(NamedTuple):
    tensors: dict[str, Array]
    width: float
    channels: int
    frame_stack: int


def _nature(convolutions: dict[str, Layer], where: str, padding: Literal["same", "valid"]) -> _Torso:
    names = [f"Conv_{index}" for index in range(len(NATURE))]
    if sorted(convolutions) != names:
        raise unsupported(where, f"a network with the convolutions {_listed(convolutions)}")
    layers = [convolutions[name] for name in names]
    kernels = [kernel for _, kernel, _ in NATURE]
    return _torso(layers, where, [base for base, _, _ in NATURE], kernels, [str(at) for at in NATURE_PLACES[padding]])


def _impala(convolutions: dict[str, Layer], where: str) -> _Torso:
    """Stacks of five convolutions: Conv_0..4, or in CleanRL's files Conv_0 and two in each residual block."""
    found = dict[tuple[int, int], Layer]()
    for name, layer in convolutions.items():
        match = _STACK.fullmatch(name)
        if match is None:
            raise unsupported(where, f"a network with the convolution {name}")
        block = match[2]
        place = (int(match[1]), int(match[3]) if block is None else 1 + 2 * int(block) + int(match[3]))
        if place in found:
            raise CorruptDataError(f"{where}: {name} and {found[place].name} are one layer under two names")
        found[place] = layer
    places = [(stack, index) for stack in range(len(IMPALA)) for index in range(5)]
    if sorted(found) != places:
        raise unsupported(where, f"an impala network with the convolutions {_listed(convolutions)}")
    layers = [found[place] for place in places]
    return _torso(layers, where, [base for base in IMPALA for _ in range(5)], [3] * len(layers), IMPALA_PLACES)


def _torso(
    layers: Sequence[Layer], where: str, bases: Sequence[int], kernels: Sequence[int], ours: Sequence[str]
) -> _Torso:
    """Args: channels at width 1, kernels, and our names in the torso, layer by layer."""
    stack = layers[0].inputs
    if stack > MAX_STACK:
        raise unsupported(where, f"a network that sees {stack} frames")
    before, tensors = stack, dict[str, Array]()
    for layer, kernel, name in zip(layers, kernels, ours, strict=True):
        expected = (kernel, kernel, before, layer.outputs)
        if layer.kernel.shape != expected:
            raise CorruptDataError(f"{where}: {layer.name}/kernel has the shape {layer.kernel.shape}, not {expected}")
        before = layer.outputs
        tensors[f"torso.{name}.weight"] = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
        tensors[f"torso.{name}.bias"] = layer.bias
    channels = [layer.outputs for layer in layers]
    width = width_of(channels, bases)
    if width is None:
        raise unsupported(where, f"convolutions of {channels} channels (multiples of {list(bases)} are known)")
    return _Torso(tensors, width, channels[-1], stack)


def _dense(
    layers: dict[str, Layer], where: str, flat: tuple[int, int, int], frame_shape: tuple[int, int]
) -> list[Layer]:
    """Hidden layer, outputs (of advantages, in a dueling head), and the values of a dueling head."""
    kind = "NoisyNetwork" if "NoisyNetwork_0" in layers else "Dense"
    names = [f"{kind}_{index}" for index in range(len(layers))]
    if sorted(layers) != names or len(layers) not in (2, 3):
        raise unsupported(where, f"a network with the dense layers {_listed(layers) or '(none)'}")
    dense = [layers[name] for name in names]
    size = flat[0] * flat[1] * flat[2]
    if len(dense) == 3 and dense[0].inputs != size == dense[0].outputs:
        raise unsupported(where, "an implicit quantile network")
    for layer, expected in zip(dense, (size, dense[0].outputs, dense[0].outputs), strict=False):
        if layer.inputs != expected:
            frames = f"; frames of {frame_shape[0]}x{frame_shape[1]} make {size}" if layer is dense[0] else ""
            raise CorruptDataError(f"{where}: {layer.name} has {layer.inputs} inputs, not {expected}{frames}")
    if any((layer.deviations is None) != (kind == "Dense") for layer in dense):
        raise CorruptDataError(f"{where}: {kind} layers of which only some are noisy")
    return dense


def _outputs(dense: Sequence[Layer], where: str, support: Support | None) -> tuple[int, Support | None]:
    """How many actions, and the support of a C51 head."""
    outputs, standard = dense[1].outputs, Support(51, 10.0)
    if len(dense) == 3:
        atoms = dense[2].outputs
        if support is None and atoms > 1:
            support = Support(atoms, standard.limit)
        if atoms != (1 if support is None else support.atoms):
            raise CorruptDataError(f"{where}: {dense[2].name} has {atoms} outputs, not {support and support.atoms}")
    elif support is None and outputs > MAX_ACTIONS:
        support = standard
    atoms = 1 if support is None else support.atoms
    if outputs % atoms or outputs // atoms > MAX_ACTIONS or (support is not None and not 2 <= atoms <= MAX_ATOMS):
        what = f"a network with {outputs} outputs, neither at most {MAX_ACTIONS} actions nor {atoms} atoms for each"
        raise unsupported(where, f"{what} (a quantile network?)")
    return outputs // atoms, support


def _dense_tensors(name: str, layer: Layer, flat: tuple[int, int, int] | None) -> dict[str, Array]:
    """A dense layer under our name.

    Args:
      flat: (H, W, channels) of what is flattened before the layer; None if nothing is.
    """

    def reordered(kernel: Array) -> Array:
        if flat is not None:
            kernel = kernel.reshape(*flat, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        return np.ascontiguousarray(kernel.T)

    tensors = {f"{name}.weight": reordered(layer.kernel), f"{name}.bias": layer.bias}
    if layer.deviations is not None:
        kernel, bias = layer.deviations
        tensors |= {f"{name}.weight_sigma": reordered(kernel), f"{name}.bias_sigma": bias}
    return tensors


def _listed(layers: Mapping[str, Layer]) -> str:
    return ", ".join(sorted(layers)[:20])[:400]
