"""Networks: parameter counts of the published architectures, shapes, scaling, and strict loading of weights."""

from typing import Any

import numpy as np
import pytest
import torch

from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import load_into, to_numpy


def network(
    kind: str, *, size: int = 84, actions: int = 6, width: float = 1.0, hidden: int = 512, padding: str | None = None
) -> QNetwork:
    torch.manual_seed(0)
    padding = padding or {"nature": "valid", "impala": "symmetric", "mlp": "same"}[kind]
    config = NetworkConfig.model_validate({"kind": kind, "width": width, "hidden": hidden, "padding": padding})
    shape = (size,) if kind == "mlp" else (size, size)
    return build_network(config, frame_shape=shape, stack=1 if kind == "mlp" else 4, num_actions=actions)


NATURE_SAME: dict[str, Any] = {"kind": "nature", "padding": "same"}
NATURE_VALID: dict[str, Any] = {"kind": "nature", "padding": "valid"}
IMPALA: dict[str, Any] = {"kind": "impala", "padding": "same"}
C51: dict[str, Any] = {"head": "c51"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (NATURE_SAME, (4_045_476, 4_046_502, 4_048_041, 4_052_658)),
        (NATURE_VALID, (1_686_180, 1_687_206, 1_688_745, 1_693_362)),
        (NATURE_SAME | C51, (4_148_076, 4_200_402, 4_278_891, 4_514_358)),
        (IMPALA, (2_082_772, 2_083_798, 2_085_337, 2_089_954)),
        (IMPALA | C51, (2_185_372, 2_237_698, 2_316_187, 2_551_654)),
        (IMPALA | {"padding": "symmetric", "hidden": 256}, (1_090_260, 1_090_774, 1_091_545, 1_093_858)),
    ],
    ids=["nature-same", "nature-valid", "nature-c51", "impala", "impala-c51", "impala-256"],
)
def test_parameter_counts_are_the_published_ones(config: dict[str, Any], expected: tuple[int, ...]) -> None:
    counts: list[int] = []
    for actions in (4, 6, 9, 18):
        with torch.device("meta"):
            module = build_network(
                NetworkConfig.model_validate(config), frame_shape=(84, 84), stack=4, num_actions=actions
            )
        counts.append(sum(parameter.numel() for parameter in module.parameters()))
    assert tuple(counts) == expected


def test_impala_has_97_744_parameters_in_15_convolutions() -> None:
    module = network("impala")
    assert sum(isinstance(each, torch.nn.Conv2d) for each in module.modules()) == 15
    assert sum(parameter.numel() for parameter in module.torso.parameters()) == 97_744


def test_dueling_and_noise_add_their_parameters_to_the_dense_layers_alone() -> None:
    def count(**config: Any) -> int:
        settings = NetworkConfig.model_validate(IMPALA | config)
        module = build_network(settings, frame_shape=(42, 42), stack=4, num_actions=6)
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(dueling=True) - count() == 512 + 1
    assert count(dueling=True, **C51) - count(**C51) == (512 + 1) * 51
    assert count(noisy=True) - count() == count() - 97_744


@pytest.mark.parametrize(("kind", "size"), [("nature", 84), ("nature", 42), ("impala", 84), ("impala", 42)])
def test_one_value_per_action_from_uint8_frames(kind: str, size: int) -> None:
    module = network(kind, size=size, width=0.5, hidden=32)
    frames = torch.randint(0, 256, (3, 4, size, size), dtype=torch.uint8)
    q_values = module(frames)
    assert (q_values.shape, q_values.dtype) == ((3, 6), torch.float32)
    torch.testing.assert_close(q_values, module(frames.float() / 255))


def test_mlp_takes_vectors_and_images_are_refused() -> None:
    assert network("mlp", size=5)(torch.zeros(2, 1, 5)).shape == (2, 6)
    with pytest.raises(ValueError, match="does not see"):
        build_network(NetworkConfig(kind="mlp"), frame_shape=(84, 84), stack=4, num_actions=6)


def test_bfloat16_changes_values_little_and_keeps_them_float32() -> None:
    module = network("nature", size=42, padding="same")
    frames = torch.randint(0, 256, (8, 4, 42, 42), dtype=torch.uint8)
    exact = module(frames)
    module.in_bfloat16 = True
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
