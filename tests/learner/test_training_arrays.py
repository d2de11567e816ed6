"""A teacher's training state is the checkpoint's, and the very next step is the one that would have come."""

from pathlib import Path

import numpy as np
import pytest
import torch

from learner.optimizers import build_optimizer
from learner.train_state import TrainState
from learner.training_arrays import to_train_state, to_training_arrays
from teacher_store.training_state import TrainingArrays, write_training_state
from upcycle.config.run import LearnerConfig, NetworkConfig
from upcycle.errors import CorruptDataError
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.runs.snapshots import read_snapshot

CPU = torch.device("cpu")


def fresh_network(seed: int, hidden: int = 8) -> QNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(kind="mlp", hidden=hidden), frame_shape=(3,), stack=1, num_actions=2)


def step(network: QNetwork, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    network(
        torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 1, 3)).astype("float32"))
    ).square().sum().backward()
    optimizer.step()


def trained(kind: str) -> tuple[QNetwork, torch.optim.Optimizer, TrainingArrays, LearnerConfig]:
    config = LearnerConfig.model_validate({"optimizer": kind})
    network = fresh_network(0)
    optimizer = build_optimizer(network.parameters(), config)
    for seed in range(3):
        step(network, optimizer, seed)
    state = {
        "online_network": network.state_dict(),
        "target_network": fresh_network(1).state_dict(),
        "optimizer": optimizer.state_dict(),
        "learner_steps": 3,
    }
    return network, optimizer, to_training_arrays(state, network, config.optimizer), config


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_the_next_step_is_the_one_that_would_have_come(kind: str) -> None:
    network, optimizer, arrays, config = trained(kind)
    again = fresh_network(5)
    other = build_optimizer(again.parameters(), config.model_copy(update={"learning_rate": 0.5}))
    state = to_train_state(arrays, again, other)
    assert [group["lr"] for group in state["optimizer"]["param_groups"]] == [0.5]  # the run's own
    student = TrainState(again, config, CPU)
    student.optimizer = other
    student.load_state_dict(state)
    assert student.learner_steps == 3
    for name, tensor in fresh_network(1).state_dict().items():
        assert torch.equal(tensor, student.target_network.state_dict()[name])
    student.set_learning_rate(config.learning_rate)
    for seed in (7, 8):
        step(network, optimizer, seed)
        step(student.online_network, student.optimizer, seed)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, student.online_network.state_dict()[name])


def test_scalars_have_no_axis_and_every_array_its_name(tmp_path: Path) -> None:
    _, _, arrays, _ = trained("adam")
    assert (arrays.kind, arrays.learner_steps) == ("adam", 3)
    assert {name: states["step"].shape for name, states in arrays.optimizer.items()} == dict.fromkeys(arrays.online, ())
    described = write_training_state(tmp_path / "state", arrays)
    assert (described.optimizer, described.learner_steps) == ("adam", 3)
    flat = read_snapshot(tmp_path / "state", sha256=described.sha256).tensors
    weights = {f"{part}/{name}" for part in ("online", "target") for name in arrays.online}
    moments = {f"optimizer/{name}/{state}" for name in arrays.online for state in ("step", "exp_avg", "exp_avg_sq")}
    assert set(flat) == weights | moments
    assert flat[f"optimizer/{next(iter(arrays.online))}/step"] == 3


def test_a_state_before_the_first_step_is_one_too() -> None:
    network = fresh_network(0)
    config = LearnerConfig()
    state = TrainState(network, config, CPU).state_dict()
    arrays = to_training_arrays(state, network, "adam")
    assert arrays.optimizer == {}
    TrainState(fresh_network(1), config, CPU).load_state_dict(
        to_train_state(arrays, network, build_optimizer(network.parameters(), config))
    )


def test_another_network_or_damaged_values_are_refused() -> None:
    _, optimizer, arrays, _ = trained("adam")
    with pytest.raises(CorruptDataError, match=r"does not fit the network: .* is \(8"):
        to_train_state(arrays, fresh_network(0, hidden=9), optimizer)
    name = next(iter(arrays.online))
    rest = {other: array for other, array in arrays.online.items() if other != name}
    less = TrainingArrays(rest, arrays.target, {}, "adam", 3)
    with pytest.raises(CorruptDataError, match="names differ"):
        to_train_state(less, fresh_network(0), optimizer)
    stray = TrainingArrays(arrays.online, arrays.target, {"stray": {"step": np.zeros(())}}, "adam", 3)
    with pytest.raises(CorruptDataError, match="optimizer knows"):
        to_train_state(stray, fresh_network(0), optimizer)
    arrays.optimizer[name]["exp_avg"].flat[0] = np.nan
    with pytest.raises(CorruptDataError, match=f"exp_avg of {name} holds values that are not finite"):
        to_train_state(arrays, fresh_network(0), optimizer)
