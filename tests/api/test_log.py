from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import upcycle
from upcycle.experience.chunks import Array

NUM_TRANSITIONS = 300


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> upcycle.ExperienceLog:
    """Frame, reward and action of transition i are made of i; every tenth ends an episode, in turn by a time limit."""
    path: Path = tmp_path_factory.mktemp("log") / "experience"
    env = upcycle.EnvConfig(task="CartPole-v1", clip_rewards=False)
    with (
        upcycle.start_replay(
            frame_shape=(2,), num_actions=5, max_stack=2, max_n_step=3, chunk_steps=16, log=path, env=env
        ) as server,
        server.client() as replay,
    ):
        for i in range(NUM_TRANSITIONS):
            ends = i % 10 == 9
            replay.add(
                upcycle.Transition(
                    np.full(2, i, np.float32),
                    i % 5,
                    float(i),
                    np.full(2, i + 1, np.float32),
                    terminated=ends and i % 20 == 9,
                    truncated=ends and i % 20 != 9,
                )
            )
    return upcycle.open_log(path)


def numbers(observation: Array) -> list[int]:
    return observation[:, -1, 0].astype(int).tolist()


def test_columns_hold_every_step_in_order(log: upcycle.ExperienceLog):
    assert len(log) == NUM_TRANSITIONS
    assert log.env.task == "CartPole-v1"
    columns, steps = log.columns(), np.arange(NUM_TRANSITIONS)
    np.testing.assert_array_equal(columns["frame"], np.stack([steps, steps], axis=1))
    np.testing.assert_array_equal(columns["reward"], steps)
    np.testing.assert_array_equal(columns["action"], steps % 5)
    np.testing.assert_array_equal(columns["terminated"], steps % 20 == 9)
    np.testing.assert_array_equal(columns["truncated"], steps % 20 == 19)
    np.testing.assert_array_equal(columns["first"], steps % 10 == 0)
    newest = log.columns(newest=20)["reward"]
    assert 20 <= len(newest) < 60
    np.testing.assert_array_equal(newest, steps[-len(newest) :])


def test_batches_hold_every_transition_once(log: upcycle.ExperienceLog):
    batches = list(log.batches(32, n_step=1, stack=2))
    assert [len(batch.action) for batch in batches] == [32] * 9 + [12]
    observation = np.concatenate([batch.observation for batch in batches])
    assert numbers(observation) == list(range(NUM_TRANSITIONS))
    steps = np.arange(NUM_TRANSITIONS)
    np.testing.assert_array_equal(observation[:, 0, 0], np.where(steps % 10 == 0, steps, steps - 1))
    discount = np.concatenate([batch.discount for batch in batches])
    np.testing.assert_allclose(discount, np.where(steps % 20 == 9, 0.0, 0.99))


def test_returns_reach_as_far_as_they_are_asked_to(log: upcycle.ExperienceLog):
    (batch,) = log.batches(1000, n_step=3, gamma=0.5)
    steps = batch.observation[:, 0, 0]
    inside = steps % 10 < 7
    np.testing.assert_allclose(batch.n_step_return[inside], (1.75 * steps + 0.5 + 0.5)[inside])
    np.testing.assert_allclose(batch.next_observation[inside, 0, 0], steps[inside] + 3)
    with pytest.raises(ValueError, match="n_step 4"):
        log.batches(8, n_step=4)
    with pytest.raises(ValueError, match="batch_size 0"):
        log.batches(0)


def test_a_seed_shuffles_and_repeats(log: upcycle.ExperienceLog):
    first, again, other = (
        [number for batch in log.batches(32, shuffle_seed=seed) for number in numbers(batch.observation)]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != list(range(NUM_TRANSITIONS))
    assert sorted(first) == sorted(other) == list(range(NUM_TRANSITIONS))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_the_workers_of_a_loader_share_the_log(log: upcycle.ExperienceLog, num_workers: int, shuffle_seed: int | None):
    dataset = log.dataset(16, shuffle_seed=shuffle_seed)
    loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    passes = [[number for batch in loader for number in numbers(batch["observation"].numpy())] for _ in range(2)]
    for found in passes:
        assert sorted(found) == list(range(NUM_TRANSITIONS))
    assert (passes[0] == passes[1]) == (shuffle_seed is None)
    batch = next(iter(loader))
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "observation": torch.float32,
        "action": torch.int64,
        "n_step_return": torch.float32,
        "discount": torch.float32,
        "next_observation": torch.float32,
    }


def test_a_folder_without_a_log_is_named(tmp_path: Path):
    with pytest.raises(upcycle.UserError, match="there is no log here"):
        upcycle.open_log(tmp_path)
