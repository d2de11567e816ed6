"""Forward passes against the NumPy oracle: both torsos, all paddings and heads, odd sizes, memory formats."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.network_oracle import dense, expected_values, impala_features, nature_features
from upcycle.config.run import NetworkConfig
from upcycle.experience.chunks import Array
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import to_numpy

ACTIONS, STACK = 3, 2
FEATURES = {"nature": nature_features, "impala": impala_features}
TORSOS = [("nature", "same"), ("nature", "valid"), ("impala", "same"), ("impala", "symmetric")]


def network(frame_shape: tuple[int, ...] = (42, 42), **config: Any) -> QNetwork:
    """A small network in float64 whose biases are not zero, so that each of them counts."""
    torch.manual_seed(0)
    settings = NetworkConfig.model_validate({"width": 0.25, "hidden": 16, "atoms": 5, "support_limit": 2.0, **config})
    module = build_network(settings, frame_shape=frame_shape, stack=STACK, num_actions=ACTIONS).double()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.1, 0.1)
    return module


def frames_of(shape: tuple[int, ...], batch_size: int = 2) -> Array:
    return np.random.default_rng(0).random((batch_size, STACK, *shape))


def run(module: QNetwork, frames: Array) -> tuple[Array, Array | None]:
    with torch.no_grad():
        q_values, logits = module.outputs(torch.from_numpy(frames))
    return q_values.numpy(), None if logits is None else logits.numpy()


@pytest.mark.parametrize("frame_shape", [(42, 42), (37, 45), (52, 39)])
@pytest.mark.parametrize(("kind", "padding"), TORSOS)
def test_torsos_equal_the_oracle(kind: str, padding: str, frame_shape: tuple[int, ...]) -> None:
    module, frames = network(frame_shape, kind=kind, padding=padding), frames_of(frame_shape)
    weights = to_numpy(module.state_dict())
    features = FEATURES[kind](weights, frames, padding)
    expected = dense(weights, "head", np.maximum(dense(weights, "hidden", features), 0))
    q_values, logits = run(module, frames)
    np.testing.assert_allclose(q_values, expected, rtol=1e-10, atol=1e-12)
    assert logits is None


@pytest.mark.parametrize(("kind", "padding"), [("nature", "same"), ("impala", "same")])
def test_the_full_size_equals_the_oracle(kind: str, padding: str) -> None:
    module, frames = network((84, 84), kind=kind, padding=padding), frames_of((84, 84), 1)
    weights = to_numpy(module.state_dict())
    features = FEATURES[kind](weights, frames, padding)
    expected = dense(weights, "head", np.maximum(dense(weights, "hidden", features), 0))
    np.testing.assert_allclose(run(module, frames)[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("head", "dueling", "noisy"), list(itertools.product(("q", "c51"), (False, True), (False, True)))
)
def test_heads_equal_the_oracle(head: str, dueling: bool, noisy: bool) -> None:
    """With noise, the oracle replays the generator: input before output, layer after layer, value before advantage."""
    module, frames = network(head=head, dueling=dueling, noisy=noisy), frames_of((42, 42))
    weights, generator = to_numpy(module.state_dict()), torch.Generator().manual_seed(7)
    atoms = 5 if head == "c51" else 1

    def layer(name: str, inputs: Array) -> Array:
        outputs = len(weights[f"{name}.bias"])
        if not noisy:
            return dense(weights, name, inputs)
        noise = [torch.randn(n, generator=generator, dtype=torch.float64).numpy() for n in (inputs.shape[1], outputs)]
        return dense(weights, name, inputs, (noise[0], noise[1]))

    hidden = np.maximum(layer("hidden", nature_features(weights, frames, "same")), 0)
    if dueling:
        value = layer("head.value", hidden).reshape(2, 1, atoms)
        advantage = layer("head.advantage", hidden).reshape(2, ACTIONS, atoms)
        values = value + advantage - advantage.mean(axis=1, keepdims=True)
    else:
        values = layer("head", hidden).reshape(2, ACTIONS, atoms)
    torch.manual_seed(7)
    q_values, logits = run(module, frames)
    if head == "q":
        assert logits is None
        np.testing.assert_allclose(q_values, values[:, :, 0], rtol=1e-10, atol=1e-12)
    else:
        assert logits is not None
        np.testing.assert_allclose(logits, values, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(q_values, expected_values(values, 2.0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("noisy", [False, True])
def test_an_mlp_equals_the_oracle(noisy: bool) -> None:
    module, vectors = network((7,), kind="mlp", noisy=noisy).eval(), frames_of((7,))
    weights = to_numpy(module.state_dict())
    hidden = np.maximum(dense(weights, "torso.1", vectors.reshape(2, -1)), 0)
    hidden = np.maximum(dense(weights, "hidden", hidden), 0)
    np.testing.assert_allclose(run(module, vectors)[0], dense(weights, "head", hidden), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "padding"), TORSOS)
def test_the_memory_format_changes_no_value(kind: str, padding: str) -> None:
    module, frames = network(kind=kind, padding=padding), torch.from_numpy(frames_of((42, 42)))
    expected = module(frames).detach()
    module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for each in (frames, frames.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(module(each).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "padding"), [("nature", "same"), ("impala", "same")])
def test_bfloat16_convolutions_of_both_formats_stay_close_and_end_in_float32(kind: str, padding: str) -> None:
    module = network(kind=kind, padding=padding, head="c51").float()
    frames = torch.randint(0, 256, (8, STACK, 42, 42), dtype=torch.uint8)
    exact = module(frames).detach()
    module.in_bfloat16 = True
    for memory_format in (torch.contiguous_format, torch.channels_last):
        module.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        q_values, logits = module.outputs(frames.to(memory_format=memory_format))
        assert logits is not None
        assert q_values.dtype == logits.dtype == torch.float32
        assert 0 < (q_values - exact).abs().max() < 0.02


@pytest.mark.parametrize("kind", ["nature", "impala"])
def test_a_network_is_one_graph_to_the_compiler(kind: str) -> None:
    module = network(kind=kind, head="c51", dueling=True).float()
    frames = torch.randint(0, 256, (2, STACK, 42, 42), dtype=torch.uint8)
    compiled = torch.compile(module.outputs, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(frames).q_values, module(frames))
