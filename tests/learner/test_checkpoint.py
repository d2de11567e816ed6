"""Checkpoints: exact resume, fall back to the newest valid one, nothing half-written."""

from pathlib import Path

import pytest
import torch

from learner.checkpoint import CheckpointFolder
from learner.train_state import TrainState
from upcycle.config.run import LearnerConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import build_network


def state(seed: int) -> TrainState:
    torch.manual_seed(seed)
    network = build_network(NetworkConfig(kind="mlp", hidden=8), frame_shape=(3,), stack=1, num_actions=2)
    return TrainState(network, LearnerConfig(), torch.device("cpu"))


def train(train_state: TrainState, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = train_state.online_network(torch.randn(4, 1, 3, generator=generator)).square().mean()
        train_state.optimizer.zero_grad()
        loss.backward()
        train_state.optimizer.step()
        train_state.learner_steps += 1


def test_a_restored_state_takes_the_very_next_step(tmp_path: Path) -> None:
    uninterrupted = state(0)
    train(uninterrupted, 5, seed=1)
    CheckpointFolder(tmp_path).save({"train_state": uninterrupted.state_dict()}, learner_steps=5, counters={})
    train(uninterrupted, 5, seed=2)

    found = CheckpointFolder(tmp_path).load_newest()
    assert found is not None
    resumed = state(99)
    resumed.load_state_dict(found[1]["train_state"])
    train(resumed, 5, seed=2)
    assert resumed.learner_steps == uninterrupted.learner_steps
    for name, tensor in uninterrupted.online_network.state_dict().items():
        assert torch.equal(tensor, resumed.online_network.state_dict()[name])


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save({"value": torch.tensor(1)}, learner_steps=1, counters={})
    newest = folder.save({"value": torch.tensor(2)}, learner_steps=2, counters={})
    newest.path.write_bytes(newest.path.read_bytes()[:-7])
    found = folder.load_newest()
    assert found is not None
    assert (found[0].learner_steps, int(found[1]["value"])) == (1, 1)


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.load_newest() is None
    folder.save({}, learner_steps=1, counters={}).path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="every checkpoint"):
        folder.load_newest()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in range(1, 5):
        folder.save({}, learner_steps=step, counters={})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:010d}.{kind}" for step in (3, 4) for kind in ("json", "pt")
    ]


def test_another_rank_loads_the_checkpoint_that_it_is_told(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path)
    for step in (5, 6):
        checkpoints.save({"step": step}, learner_steps=step, counters={})
    ref, found = CheckpointFolder(tmp_path).load(5)
    assert (ref.learner_steps, found) == (5, {"step": 5})
    ref.path.write_bytes(b"damaged")
    for step in (5, 7):
        with pytest.raises(CorruptDataError, match=f"no whole checkpoint of step {step}"):
            CheckpointFolder(tmp_path).load(step)


def test_on_a_full_disk_an_older_checkpoint_makes_room_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 2

    def write(path: Path, data: bytes) -> None:
        if path.suffix == ".pt" and len(list(tmp_path.glob("*.pt"))) >= room:
            raise UserError("disk", str(path), "is full", "free some space")
        path.write_bytes(data)

    monkeypatch.setattr("learner.checkpoint.write_atomically", write)
    folder = CheckpointFolder(tmp_path)
    for steps in (1, 2, 3):
        folder.save({"value": torch.tensor(steps)}, learner_steps=steps, counters={})
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-0000000002.pt", "step-0000000003.pt"]
    room = 1
    with pytest.raises(UserError, match="is full"):
        folder.save({}, learner_steps=4, counters={})
    found = folder.load_newest()
    assert found is not None
    assert int(found[1]["value"]) == 3
