"""Layers out of named arrays, checked: what Flax calls "Conv_0/kernel" and "Conv_0/bias", noisy ones too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_array, is_dict

_MAX_LAYERS: Final = 64
_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 1_000
_PLAIN: Final = ("kernel", "bias")
_NOISY: Final = ("kernel_mu", "bias_mu", "kernel_sigma", "bias_sigma")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution or dense layer, in Flax's order of axes.

    Attributes:
      name: in the file.
      kernel: float32 [H, W, inputs, outputs] or [inputs, outputs]; the mean of a noisy layer.
      bias: float32 [outputs].
      deviations: kernel and bias of a noisy layer's noise, shaped as `kernel` and `bias`.
    """

    name: str
    kernel: Array
    bias: Array
    deviations: tuple[Array, Array] | None

    @property
    def inputs(self) -> int:
        """Channels, or features."""
        return self.kernel.shape[-2]

    @property
    def outputs(self) -> int:
        """Channels, or features."""
        return self.kernel.shape[-1]


def flatten(tree: dict[object, object], *, where: str) -> dict[str, object]:
    """The leaves of nested dicts, by path, in no order. Raises: CorruptDataError if there are too many."""
    leaves, waiting = dict[str, object](), list[tuple[str, object, int]]([("", tree, 0)])
    for _ in range(_MAX_NODES):
        if not waiting:
            return leaves
        path, node, depth = waiting.pop()
        if not is_dict(node):
            leaves[path] = node
            continue
        if depth == _MAX_DEPTH or len(node) > _MAX_NODES:
            break
        for key, value in node.items():
            if not isinstance(key, str):
                raise CorruptDataError(f"{where}: a name that is a {type(key).__name__}")
            waiting.append((f"{path}/{key}" if path else key, value, depth + 1))
    raise CorruptDataError(f"{where}: nested deeper than {_MAX_DEPTH}, or over {_MAX_NODES} parts")


def read_layers(arrays: Mapping[str, object], where: str) -> dict[str, Layer]:
    """Every layer by its name: finite float32 of matching shapes, nothing missing or left over.

    Args:
      arrays: by "LAYER/kernel"; what is no NumPy array is refused.
      where: names the file in errors.
    Raises: CorruptDataError naming file and array.
    """
    parts = dict[str, dict[str, Array]]()
    for name, value in arrays.items():
        layer, _, part = name.rpartition("/")
        parts.setdefault(layer, {})[part] = _checked(value, f"{where}: {name}")
    if len(parts) > _MAX_LAYERS:
        raise CorruptDataError(f"{where}: {len(parts)} layers; no agent has so many")
    return {name: _layer(name, found, where) for name, found in parts.items()}


def unsupported(where: str, what: str) -> UserError:
    """The error for a sound network that is none of ours."""
    remedy = "supported are Q and C51 networks with a Nature or Impala torso, dueling and noisy ones too"
    return UserError("PATH", where, f"holds {what} that cannot be imported", remedy)


def _layer(name: str, parts: dict[str, Array], where: str) -> Layer:
    is_noisy = "kernel_mu" in parts
    expected = _NOISY if is_noisy else _PLAIN
    if set(parts) != set(expected):
        wrong = ", ".join(f"{name}/{part}" for part in sorted(set(parts) ^ set(expected)))
        raise CorruptDataError(f"{where}: missing or left over: {wrong}")
    kernel, bias = parts[expected[0]], parts[expected[1]]
    if kernel.ndim not in (2, 4) or (is_noisy and kernel.ndim != 2):
        raise CorruptDataError(f"{where}: {name}/{expected[0]} has the shape {kernel.shape}")
    for part, other in zip(expected[1:], (kernel.shape[-1:], kernel.shape, kernel.shape[-1:]), strict=False):
        if parts[part].shape != other:
            raise CorruptDataError(f"{where}: {name}/{part} has the shape {parts[part].shape}, not {other}")
    deviations = (parts["kernel_sigma"], parts["bias_sigma"]) if is_noisy else None
    return Layer(name, kernel, bias, deviations)


def _checked(value: object, where: str) -> Array:
    if not is_array(value):
        raise CorruptDataError(f"{where} is a {type(value).__name__}, no array")
    array = value
    if array.dtype.kind != "f" or not array.size:
        raise CorruptDataError(f"{where} is an array of {array.dtype} and shape {array.shape}, no weights")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise CorruptDataError(f"{where} holds values that are not finite")
    return array
