"""Networks: parameter counts of the published architectures, shapes, scaling, and strict loading of weights."""

import numpy as np
import pytest
import torch

from upcycle.config import NetworkConfig
from upcycle.errors import CorruptDataError
from upcycle.network_parts import same_padding
from upcycle.networks import QNetwork, build_network
from upcycle.torch_io import load_into, to_numpy


def network(
    kind: str, *, size: int = 84, actions: int = 6, width: float = 1.0, hidden: int = 512, padding: str | None = None
) -> QNetwork:
    torch.manual_seed(0)
    padding = padding or {"nature": "valid", "impala": "symmetric", "mlp": "same"}[kind]
    config = NetworkConfig.model_validate({"kind": kind, "width": width, "hidden": hidden, "padding": padding})
    shape = (size,) if kind == "mlp" else (size, size)
    return build_network(config, frame_shape=shape, stack=1 if kind == "mlp" else 4, num_actions=actions)


@pytest.mark.parametrize(
    ("kind", "hidden", "actions", "expected"),
    [
        ("nature", 512, 4, 1_686_180),
        ("nature", 512, 6, 1_687_206),
        ("nature", 512, 18, 1_693_362),
        ("impala", 512, 6, 2_083_798),
        ("impala", 256, 4, 1_090_260),
        ("impala", 256, 18, 1_093_858),
    ],
)
def test_parameter_counts_are_the_published_ones(kind: str, hidden: int, actions: int, expected: int) -> None:
    module = network(kind, hidden=hidden, actions=actions)
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


@pytest.mark.parametrize(("actions", "expected"), [(4, 4_045_476), (6, 4_046_502), (18, 4_052_658)])
def test_same_padding_gives_dopamines_network(actions: int, expected: int) -> None:
    module = network("nature", actions=actions, padding="same")
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "expected"),
    [(84, 8, 4, (2, 2)), (21, 4, 2, (1, 2)), (11, 3, 1, (1, 1)), (42, 8, 4, (3, 3)), (8, 2, 4, (0, 0))],
)
def test_same_padding_is_that_of_tensorflow(length: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(length, kernel, stride) == expected


@pytest.mark.parametrize(("kind", "size"), [("nature", 84), ("nature", 42), ("impala", 84), ("impala", 42)])
def test_one_value_per_action_from_uint8_frames(kind: str, size: int) -> None:
    module = network(kind, size=size, width=0.5, hidden=32)
    frames = torch.randint(0, 256, (3, 4, size, size), dtype=torch.uint8)
    q_values = module(frames)
    assert (q_values.shape, q_values.dtype) == ((3, 6), torch.float32)
    torch.testing.assert_close(q_values, module(frames.float() / 255))


def test_impala_has_15_convolutions() -> None:
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network("impala").modules()) == 15


def test_mlp_takes_vectors_and_images_are_refused() -> None:
    assert network("mlp", size=5)(torch.zeros(2, 1, 5)).shape == (2, 6)
    with pytest.raises(ValueError, match="does not see"):
        build_network(NetworkConfig(kind="mlp"), frame_shape=(84, 84), stack=4, num_actions=6)


def test_nature_forward_equals_a_numpy_oracle() -> None:
    """An independent convolution by explicit patches, at a size where it is quick."""
    module = network("nature", size=42, width=0.25, hidden=16).double()
    frames = np.random.default_rng(0).random((2, 4, 42, 42))

    def convolve(inputs: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
        size = weight.shape[2]
        out = (inputs.shape[2] - size) // stride + 1
        result = np.empty((inputs.shape[0], weight.shape[0], out, out))
        for y in range(out):
            for x in range(out):
                patch = inputs[:, :, y * stride : y * stride + size, x * stride : x * stride + size]
                result[:, :, y, x] = np.einsum("bchw,ochw->bo", patch, weight) + bias
        return np.maximum(result, 0)

    weights = to_numpy(module.state_dict())
    hidden = frames
    for layer, stride in ((0, 4), (2, 2), (4, 1)):
        hidden = convolve(hidden, weights[f"torso.{layer}.weight"], weights[f"torso.{layer}.bias"], stride)
    hidden = np.maximum(hidden.reshape(2, -1) @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    expected = hidden @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(module(torch.from_numpy(frames)).detach().numpy(), expected, rtol=1e-9)


def test_a_bfloat16_torso_changes_values_little_and_keeps_them_float32() -> None:
    module = network("nature", size=42, padding="same")
    frames = torch.randint(0, 256, (8, 4, 42, 42), dtype=torch.uint8)
    exact = module(frames)
    module.bfloat16_torso = True
    rounded = module(frames)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.02 * exact.abs().max()


def test_weights_round_trip_through_numpy() -> None:
    source, target = network("nature", size=42), network("nature", size=42, width=1.0)
    torch.nn.init.normal_(target.hidden.weight)
    load_into(target, to_numpy(source.state_dict()))
    frames = torch.randint(0, 256, (2, 4, 42, 42), dtype=torch.uint8)
    torch.testing.assert_close(source(frames), target(frames))


def test_wrong_or_damaged_weights_are_refused_and_change_nothing() -> None:
    module = network("nature", size=42)
    good = to_numpy(module.state_dict())
    missing = {name: array for name, array in good.items() if name != "head.bias"}
    reshaped = good | {"head.bias": np.zeros(7, np.float32)}
    damaged = good | {"head.bias": np.full(6, np.nan, np.float32)}
    for tensors, message in ((missing, "names differ"), (reshaped, "is \\(7,\\)"), (damaged, "not finite")):
        with pytest.raises(CorruptDataError, match=message):
            load_into(module, tensors)
    for name, array in to_numpy(module.state_dict()).items():
        np.testing.assert_array_equal(array, good[name])
