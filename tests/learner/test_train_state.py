"""Where and how precisely a learner computes."""

import numpy as np
import pytest
import torch

from learner.train_state import TrainState
from learner.tuning import choose_device, has_bfloat16
from upcycle.config.run import LearnerConfig, NetworkConfig
from upcycle.networks.q_network import build_network

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_precision_is_of_both_networks(precision: str) -> None:
    network = build_network(NetworkConfig(hidden=8, padding="same"), frame_shape=(42, 42), stack=4, num_actions=2)
    state = TrainState(network, LearnerConfig.model_validate({"precision": precision}), CPU)
    wanted = {"float32": False, "bfloat16": True, "auto": has_bfloat16(CPU)}[precision]
    assert (state.online_network.in_bfloat16, state.target_network.in_bfloat16) == (wanted, wanted)
    assert {parameter.dtype for parameter in state.online_network.parameters()} == {torch.float32}


def averaging_state(decay: float) -> TrainState:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(kind="mlp", hidden=8), frame_shape=(3,), stack=1, num_actions=2)
    return TrainState(network, LearnerConfig(weight_average_decay=decay), CPU)


def move(state: TrainState) -> None:
    with torch.no_grad():
        for parameter in state.online_network.parameters():
            parameter += torch.randn_like(parameter)
    state.learner_steps += 1
    state.average_weights()


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_policy_is_the_average_of_the_weights(decay: float) -> None:
    state = averaging_state(decay)
    expected = state.online_network.hidden.weight.detach().double().numpy().copy()
    for step in range(1, 41):
        move(state)
        rate = min(decay, (1 + step) / (10 + step))
        expected = rate * expected + (1 - rate) * state.online_network.hidden.weight.detach().double().numpy()
    np.testing.assert_allclose(state.policy_network.hidden.weight.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert not state.policy_network.hidden.weight.requires_grad


def test_without_averaging_the_policy_is_the_online_network() -> None:
    state = averaging_state(0.0)
    move(state)
    assert state.policy_network is state.online_network


def test_a_restored_state_averages_on() -> None:
    state, restored = averaging_state(0.9), averaging_state(0.9)
    move(state)
    restored.load_state_dict(state.state_dict())
    for each in (state, restored):
        torch.manual_seed(1)
        move(each)
    for name, tensor in state.policy_network.state_dict().items():
        assert torch.equal(tensor, restored.policy_network.state_dict()[name])


def test_a_run_that_stops_averaging_goes_on_from_its_own_weights() -> None:
    averaging, plain = averaging_state(0.9), averaging_state(0.0)
    move(averaging)
    plain.load_state_dict(averaging.state_dict())
    for name, tensor in averaging.online_network.state_dict().items():
        assert torch.equal(tensor, plain.online_network.state_dict()[name])


def test_a_run_that_begins_to_average_begins_with_its_own_weights() -> None:
    plain, averaging = averaging_state(0.0), averaging_state(0.9)
    move(plain)
    averaging.load_state_dict(plain.state_dict())
    for name, tensor in plain.online_network.state_dict().items():
        assert torch.equal(tensor, averaging.policy_network.state_dict()[name])


def test_cuda_is_chosen_where_it_is_and_refused_where_it_is_not() -> None:
    assert choose_device("cpu") == CPU
    if torch.cuda.is_available():
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    else:
        assert choose_device("auto") == CPU
        with pytest.raises(ValueError, match=r"learner\.device"):
            choose_device("cuda")
