"""Where and how precisely a learner computes."""

import pytest
import torch

from learner.train_state import TrainState, choose_device, has_bfloat16
from upcycle.config import LearnerConfig, NetworkConfig
from upcycle.networks import build_network

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_precision_is_of_both_networks(precision: str) -> None:
    network = build_network(NetworkConfig(hidden=8, padding="same"), frame_shape=(42, 42), stack=4, num_actions=2)
    state = TrainState(network, LearnerConfig.model_validate({"precision": precision}), CPU)
    wanted = {"float32": False, "bfloat16": True, "auto": has_bfloat16(CPU)}[precision]
    assert (state.online_network.bfloat16_torso, state.target_network.bfloat16_torso) == (wanted, wanted)
    assert {parameter.dtype for parameter in state.online_network.parameters()} == {torch.float32}


def test_cuda_is_chosen_where_it_is_and_refused_where_it_is_not() -> None:
    assert choose_device("cpu") == CPU
    if torch.cuda.is_available():
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    else:
        assert choose_device("auto") == CPU
        with pytest.raises(ValueError, match=r"learner\.device"):
            choose_device("cuda")
