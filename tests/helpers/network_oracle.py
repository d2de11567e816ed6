"""Q networks in NumPy and float64, written from their definitions, layer by layer, without torch."""

import numpy as np

from upcycle.experience.chunks import Array

Pads = tuple[tuple[int, int], tuple[int, int]]


def same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: as many zeros as ceil(length / stride) windows need, the odd one last."""
    needed = max((int(np.ceil(length / stride)) - 1) * stride + kernel - length, 0)
    return needed // 2, needed - needed // 2


def convolve(inputs: Array, weight: Array, bias: Array, stride: int, pads: Pads) -> Array:
    padded = np.pad(inputs, ((0, 0), (0, 0), *pads))
    size = weight.shape[2]
    rows, columns = ((length - size) // stride + 1 for length in padded.shape[2:])
    result = np.empty((len(inputs), len(weight), rows, columns))
    for y in range(rows):
        for x in range(columns):
            patch = padded[:, :, y * stride : y * stride + size, x * stride : x * stride + size]
            result[:, :, y, x] = np.tensordot(patch, weight, axes=((1, 2, 3), (1, 2, 3))) + bias
    return result


def pool(inputs: Array, pads: Pads) -> Array:
    padded = np.pad(inputs, ((0, 0), (0, 0), *pads), constant_values=-np.inf)
    rows, columns = ((length - 3) // 2 + 1 for length in padded.shape[2:])
    windows = [
        [padded[:, :, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3].max(axis=(2, 3)) for x in range(columns)]
        for y in range(rows)
    ]
    return np.array(windows).transpose(2, 3, 0, 1)


def nature_features(weights: dict[str, Array], frames: Array, padding: str) -> Array:
    names = (1, 4, 7) if padding == "same" else (0, 2, 4)
    hidden = frames
    for name, kernel, stride in zip(names, (8, 4, 3), (4, 2, 1), strict=True):
        height, width = hidden.shape[2:]
        pads = (same(height, kernel, stride), same(width, kernel, stride)) if padding == "same" else ((0, 0), (0, 0))
        convolved = convolve(hidden, weights[f"torso.{name}.weight"], weights[f"torso.{name}.bias"], stride, pads)
        hidden = np.maximum(convolved, 0)
    return hidden.reshape(len(frames), -1)


def impala_features(weights: dict[str, Array], frames: Array, padding: str) -> Array:
    def layer(name: str, inputs: Array) -> Array:
        return convolve(inputs, weights[f"torso.{name}.weight"], weights[f"torso.{name}.bias"], 1, ((1, 1), (1, 1)))

    hidden = frames
    for first in (0, 4, 8):
        hidden = layer(str(first), hidden)
        height, width = hidden.shape[2:]
        hidden = pool(hidden, (same(height, 3, 2), same(width, 3, 2)) if padding == "same" else ((1, 1), (1, 1)))
        for block in (first + 2, first + 3):
            inner = layer(f"{block}.first", np.maximum(hidden, 0))
            hidden = hidden + layer(f"{block}.second", np.maximum(inner, 0))
    return np.maximum(hidden, 0).reshape(len(frames), -1)


def dense(weights: dict[str, Array], name: str, inputs: Array, noise: tuple[Array, Array] | None = None) -> Array:
    """A dense layer; `noise` is the raw Gaussian noise of its inputs and of its outputs."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if noise is not None:
        noise_in, noise_out = (np.sign(draw) * np.sqrt(np.abs(draw)) for draw in noise)
        weight = weight + weights[f"{name}.weight_sigma"] * np.outer(noise_out, noise_in)
        bias = bias + weights[f"{name}.bias_sigma"] * noise_out
    return inputs @ weight.T + bias


def expected_values(logits: Array, limit: float) -> Array:
    """Means of categorical distributions over evenly spaced atoms, [B, A, N] -> [B, A]."""
    exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
    return (exponentials / exponentials.sum(axis=2, keepdims=True)) @ np.linspace(-limit, limit, logits.shape[2])
