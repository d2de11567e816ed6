"""Parts of networks by hand-made examples: paddings, noise, initial weights, the dueling identity."""

import numpy as np
import pytest
import torch
from torch import nn

from upcycle.config.run import NetworkConfig
from upcycle.networks.network_parts import DuelingHead, NoisyLinear, Residual, impala_torso, nature_torso, same_padding
from upcycle.networks.q_network import QNetwork, build_network


def network(**config: object) -> QNetwork:
    torch.manual_seed(0)
    settings = NetworkConfig.model_validate({"kind": "mlp", "hidden": 64, **config})
    frame_shape = (6,) if settings.kind == "mlp" else (42, 42)
    return build_network(settings, frame_shape=frame_shape, stack=1, num_actions=4)


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "expected"),
    [
        (84, 8, 4, (2, 2)),
        (21, 4, 2, (1, 2)),
        (11, 3, 1, (1, 1)),
        (42, 8, 4, (3, 3)),
        (8, 2, 4, (0, 0)),
        (84, 3, 2, (0, 1)),
        (42, 3, 2, (0, 1)),
        (21, 3, 2, (1, 1)),
    ],
)
def test_same_padding_is_that_of_tensorflow(length: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(length, kernel, stride) == expected


@pytest.mark.parametrize(
    ("size", "padding", "expected"),
    [
        (4, "same", [[10, 11], [14, 15]]),  # rows and columns 0 to 2, and 2 to the edge
        (4, "symmetric", [[5, 7], [13, 15]]),  # from the edge to 1, and 1 to 3
        (5, "same", [[6, 8, 9], [16, 18, 19], [21, 23, 24]]),
        (5, "symmetric", [[6, 8, 9], [16, 18, 19], [21, 23, 24]]),  # of odd lengths both are the same
    ],
)
@pytest.mark.parametrize("offset", [0, -100])
def test_pools_by_hand(size: int, padding: str, expected: list[list[int]], offset: int) -> None:
    """Below zero as well: what lies beyond the edge is never the maximum."""
    torso, _ = impala_torso(1, (size, size), width=1, padding="same" if padding == "same" else "symmetric")
    values = torch.arange(float(size * size)).reshape(1, 1, size, size) + offset
    np.testing.assert_array_equal(torso[1](values)[0, 0].numpy(), np.array(expected) + offset)


def test_an_odd_zero_of_a_convolution_comes_last() -> None:
    """Kernel 4, stride 2 over 21 ones: one zero before, two after."""
    torso, features = nature_torso(1, (84, 84), width=1 / 32, padding="same")
    assert features == 2 * 11 * 11
    counting = nn.Sequential(*list(torso.children())[3:5])
    for parameter, value in zip(counting.parameters(), (1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    counts = counting(torch.ones(1, 1, 21, 21))[0, 0]
    assert counts[0].tolist() == [9.0, *[12.0] * 9, 6.0]
    assert counts[-1].tolist() == [6.0, *[8.0] * 9, 4.0]


def test_frames_of_which_nothing_is_left_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network\.padding 'valid' leaves nothing.*padding=same"):
        nature_torso(4, (32, 32), width=1, padding="valid")


def test_noise_is_drawn_afresh_in_training_and_not_at_all_in_evaluation() -> None:
    module, vectors = network(noisy=True, dueling=True, head="c51"), torch.ones(3, 1, 6)
    assert not torch.equal(module(vectors), module(vectors))
    torch.manual_seed(5)
    first = module(vectors)
    torch.manual_seed(5)
    assert torch.equal(module(vectors), first)
    module.eval()
    state = torch.get_rng_state()
    assert torch.equal(module(vectors), module(vectors))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_shares_its_noise() -> None:
    values = network(noisy=True)(torch.ones(3, 1, 6))
    torch.testing.assert_close(values, values[:1].expand(3, -1))


def test_the_mean_over_noise_is_the_layer_without_it() -> None:
    torch.manual_seed(0)
    layer, inputs = NoisyLinear(5, 3, sigma=0.5), torch.randn(2, 5)
    mean = torch.stack([layer(inputs) for _ in range(4000)]).mean(dim=0)
    torch.testing.assert_close(mean, layer.eval()(inputs), rtol=0, atol=0.05)


def test_both_means_and_deviations_of_noisy_layers_are_trained() -> None:
    module = network(noisy=True, dueling=True)
    module(torch.ones(3, 1, 6)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_initial_weights_of_noisy_layers() -> None:
    module = network(noisy=True, noisy_sigma=0.4, hidden=400)
    assert isinstance(module.hidden, NoisyLinear)
    for mean, deviation in (
        (module.hidden.weight, module.hidden.weight_sigma),
        (module.hidden.bias, module.hidden.bias_sigma),
    ):
        torch.testing.assert_close(deviation, torch.full_like(deviation, 0.4 / 20))
        assert mean.abs().max() <= 1 / 20
        assert mean.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.1)


def test_initial_weights_are_dopamines() -> None:
    module = network(kind="impala", width=4, hidden=256)
    blocks = [block for block in module.modules() if isinstance(block, Residual)]
    assert len(blocks) == 6
    for convolution in (each for block in blocks for each in (block.first, block.second)):
        fan_in = convolution.in_channels * 9
        deviation = fan_in**-0.5
        assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.03)
        assert convolution.weight.abs().max() <= 2 * deviation / 0.8796 + 1e-6
        assert convolution.weight.abs().max() > 3**0.5 * deviation, "as a uniform distribution would have it"
    assert isinstance(module.torso, nn.Sequential)
    stem = module.torso[8]
    assert isinstance(stem, nn.Conv2d)
    bound = (6 / (9 * (stem.in_channels + stem.out_channels))) ** 0.5
    for weight, limit in ((stem.weight, bound), (module.hidden.weight, (6 / sum(module.hidden.weight.shape)) ** 0.5)):
        assert weight.abs().max() <= limit
        assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
    for name, parameter in module.named_parameters():
        assert name.endswith("weight") or not parameter.any(), name


def test_a_constant_advantage_counts_for_nothing() -> None:
    torch.manual_seed(0)
    head, features = DuelingHead(nn.Linear(5, 3), nn.Linear(5, 12)), torch.randn(2, 5)
    before = head(features)
    assert before.shape == (2, 12)
    with torch.no_grad():
        head.advantage.bias.add_(torch.tensor([1.0, -2.0, 0.5]).repeat(4))  # of every action alike, atom by atom
    torch.testing.assert_close(head(features), before)
    torch.testing.assert_close(before.reshape(2, 4, 3).mean(dim=1), head.value(features))


def test_the_support_belongs_to_the_configuration() -> None:
    module = network(head="c51", atoms=11, support_limit=5)
    assert module.support is not None
    assert module.support.tolist() == pytest.approx(list(range(-5, 6)))
    assert "support" not in module.state_dict()
    assert network().support is None
