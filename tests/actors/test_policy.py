import numpy as np
import pytest
import torch

from actors.lanes import EnvSpec
from actors.policy import QPolicy, epsilon_greedy
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy

FRAMES = EnvSpec((42, 42), "uint8", 6, stack=4, frame_skip=4)
VECTORS = EnvSpec((5,), "float32", 3, stack=1, frame_skip=1)


@pytest.mark.parametrize(("spec", "kind"), [(FRAMES, "nature"), (FRAMES, "impala"), (VECTORS, "mlp")])
def test_q_values_are_those_of_the_loaded_network(spec: EnvSpec, kind: str) -> None:
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"kind": kind, "hidden": 16, "width": 0.25})
    network = build_network(config, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions)
    observation = np.random.default_rng(0).integers(0, 256, (7, spec.stack, *spec.frame_shape)).astype(spec.frame_dtype)
    policy = QPolicy(config, spec)
    assert not np.allclose(policy.q_values(observation), network(torch.from_numpy(observation)).detach().numpy())
    policy.load(to_numpy(network.state_dict()))
    q_values = policy.q_values(observation)
    assert (q_values.dtype, q_values.shape) == (np.float32, (7, spec.num_actions))
    np.testing.assert_allclose(q_values, network(torch.from_numpy(observation)).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    policy = QPolicy(NetworkConfig(kind="mlp", hidden=8), VECTORS)
    observation = np.ones((1, 1, 5), np.float32)
    before = policy.q_values(observation)
    wider = build_network(NetworkConfig(kind="mlp", hidden=9), frame_shape=(5,), stack=1, num_actions=3)
    with pytest.raises(CorruptDataError):
        policy.load(to_numpy(wider.state_dict()))
    np.testing.assert_array_equal(policy.q_values(observation), before)


def test_epsilon_is_the_share_of_uniform_actions() -> None:
    rng, rows = np.random.default_rng(0), 40_000
    q_values = np.tile(np.array([0.0, 2.0, 1.0, 2.0], np.float32), (rows, 1))
    epsilons = np.where(np.arange(rows) % 2, 0.4, 0.0)
    actions = epsilon_greedy(q_values, epsilons, rng)
    assert (actions[::2] == 1).all()  # greedy: the first of the best
    shares = np.bincount(actions[1::2], minlength=4) / (rows / 2)
    np.testing.assert_allclose(shares, [0.1, 0.7, 0.1, 0.1], atol=0.015)  # five standard errors of 0.003
    np.testing.assert_array_equal(epsilon_greedy(q_values, 0.0, rng), np.ones(rows))


def test_noise_is_drawn_for_each_batch_where_it_explores_and_nowhere_else() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(kind="mlp", hidden=16, noisy=True)
    observation = np.ones((2, 1, 5), np.float32)
    exploring, means = QPolicy(config, VECTORS, noisy=True), QPolicy(config, VECTORS)
    assert not np.allclose(exploring.q_values(observation), exploring.q_values(observation))
    np.testing.assert_array_equal(means.q_values(observation), means.q_values(observation))
