"""Frames that are resized one by one, against EnvPool's own skipping and against resizing in NumPy."""

import warnings
from typing import Any, Literal

import envpool
import numpy as np
import pytest

from actors.envs import EnvPoolLanes
from actors.lanes import LaneRows
from actors.resize_first import FRAME_BY_FRAME, ResizeFirstPool, frames_per_recv
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.networks.action_names import action_names

pytestmark = pytest.mark.slow

RAW = (210, 160)
FIRE = 1


def make(env: EnvConfig, lanes: int, seeds: list[int], **changes: Any) -> Any:
    """EnvPool under the protocol of `env`, with the emulator's own frames."""
    protocol = {
        "img_height": RAW[0],
        "img_width": RAW[1],
        "stack_num": 1,
        "frame_skip": env.frame_skip,
        "noop_max": env.noop_max,
        "use_fire_reset": env.fire_reset,
        "full_action_space": env.full_action_space,
        "episodic_life": env.episodic_life,
        "repeat_action_probability": env.sticky_actions,
        "max_episode_steps": env.max_episode_steps,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pool: Any = envpool.make(
            env.task, env_type="gymnasium", num_envs=lanes, num_threads=1, seed=seeds, **{**protocol, **changes}
        )
        _ = pool.observation_space
    pool.async_reset()
    return pool


@pytest.mark.parametrize(
    ("task", "steps", "protocol"),
    [
        ("Breakout-v5", 120, {"sticky_actions": 0.25, "episodic_life": True, "noop_max": 1}),
        ("Breakout-v5", 80, {"frame_skip": 3, "episodic_life": True, "noop_max": 1, "max_episode_steps": 35}),
        ("Qbert-v5", 200, {"frame_skip": 7, "fire_reset": False, "noop_max": 30, "sticky_actions": 0.25}),
        ("MontezumaRevenge-v5", 100, {"episodic_life": True, "noop_max": 1, "full_action_space": True}),
        ("Boxing-v5", 15, {"frame_skip": 1, "noop_max": 30}),
    ],
)
def test_without_resizing_it_is_envpool(task: str, steps: int, protocol: dict[str, Any]) -> None:
    env, seeds, rng = EnvConfig(task=task, **protocol), [5, 6], np.random.default_rng(1)
    theirs = make(env, 2, seeds)
    one_by_one = make(env, 2, seeds, batch_size=frames_per_recv(2, 2), **FRAME_BY_FRAME)
    ours = ResizeFirstPool(one_by_one, env, recv_batch=2, seeds=seeds, training=True)
    num_ends = 0
    for _ in range(steps):
        observation, reward, terminated, truncated, info = theirs.recv()
        row = ours.recv()
        for mine, expected in zip(row[1:4], (reward, terminated, truncated), strict=True):
            np.testing.assert_array_equal(mine, expected)
        for name in ("env_id", "lives", "terminated"):
            np.testing.assert_array_equal(row[4][name], info[name])
        going_on = info["terminated"] == 0
        np.testing.assert_array_equal(row[0][going_on, -1], observation[going_on, -1])
        num_ends += int((terminated | truncated).sum())
        action = rng.integers(0, len(action_names(env)), 2).astype(np.int32)
        theirs.send(action, info["env_id"])
        ours.send(action, info["env_id"])
    assert num_ends or task == "Boxing-v5"
    ours.close()


def area(size: int, length: int) -> Array:
    """[size, length]: each pixel is the mean of what it covers, as OpenCV's INTER_AREA."""
    edges = np.arange(size + 1) * length / size
    low = np.maximum(edges[:-1, None], np.arange(length))
    high = np.minimum(edges[1:, None], np.arange(length) + 1)
    return np.maximum(high - low, 0) * size / length


def bilinear(size: int, length: int) -> Array:
    """[size, length]: each pixel is mixed of the two whose centres are nearest, as OpenCV's INTER_LINEAR."""
    centre = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(centre[:, None] - np.arange(length)), 0)


def resize(frame: Array, interpolation: str, size: int = 84) -> Array:
    weights = area if interpolation == "area" else bilinear
    return weights(size, RAW[0]) @ frame.astype(np.float64) @ weights(size, RAW[1]).T


def played(env: EnvConfig, actions: list[int], *, seed: int = 0) -> list[LaneRows]:
    rows = list[LaneRows]()
    with EnvPoolLanes(env, lanes=1, recv_batch=1, seed=seed, threads=1, training=True) as lanes:
        for action in actions:
            rows.append(lanes.recv())
            lanes.send(np.array([action]), rows[-1].lane)
    return rows


@pytest.mark.parametrize("interpolation", ["area", "bilinear"])
def test_frames_are_resized_as_opencv_does_before_or_after_the_maximum(
    interpolation: Literal["area", "bilinear"],
) -> None:
    env = EnvConfig(task="Breakout-v5", noop_max=1, interpolation=interpolation)
    actions = np.random.default_rng(0).integers(0, 4, 30).tolist()
    lane_seeds = np.random.SeedSequence(0).generate_state(1) % 2**31
    emulator = make(env, 1, [int(lane_seeds[0])], frame_skip=1)
    pooled_first = played(env, actions)
    resized_first = played(env.model_copy(update={"resize_order": "resize_first"}), actions)
    emulator.recv()
    num_different = 0
    for step, action in enumerate(actions[:-1]):
        frames = list[Array]()
        for _ in range(4):
            emulator.send(np.array([action], np.int32), np.zeros(1, np.int32))
            frames.append(emulator.recv()[0][0, 0])
        after = resize(np.maximum(frames[2], frames[3]), interpolation)
        before = np.maximum(resize(frames[2], interpolation), resize(frames[3], interpolation))
        np.testing.assert_allclose(pooled_first[step + 1].frame[0], after, atol=1)
        np.testing.assert_allclose(resized_first[step + 1].frame[0], before, atol=1)
        num_different += int((np.abs(after - before) > 2).any())
    assert num_different > 3, "the orders could not be told apart"


def test_interpolations_show_different_frames() -> None:
    frames = [played(EnvConfig(noop_max=1, interpolation=name), [0])[0].frame for name in ("area", "bilinear")]
    assert (frames[0] != frames[1]).mean() > 0.02


def lives_of_lanes(recv_batch: int, steps: int) -> list[list[tuple[Array, float, bool, int]]]:
    """The first rows of each of five lanes, whose actions depend on its own past alone."""
    env = EnvConfig(frame_size=24, resize_order="resize_first", max_episode_steps=9, sticky_actions=0.25)
    lived: list[list[tuple[Array, float, bool, int]]] = [[] for _ in range(5)]
    with EnvPoolLanes(env, lanes=5, recv_batch=recv_batch, seed=3, threads=2, training=True) as lanes:
        while min(map(len, lived)) < steps:
            rows = lanes.recv()
            values = (rows.observation, rows.reward, rows.ended, rows.lives)
            for lane, observation, reward, ended, lives in zip(rows.lane, *values, strict=True):
                lived[lane].append((observation, float(reward), bool(ended), int(lives)))
            lived_steps = np.array(list(map(len, lived)))[rows.lane]
            lanes.send(lived_steps * (rows.lane + 2) % 6, rows.lane)
    return [rows[:steps] for rows in lived]


def test_lanes_go_their_own_ways_whatever_comes_first() -> None:
    lockstep = lives_of_lanes(5, 25)
    for recv_batch in (1, 3):
        for mine, expected in zip(lives_of_lanes(recv_batch, 25), lockstep, strict=True):
            assert [row[1:] for row in mine] == [row[1:] for row in expected]
            np.testing.assert_array_equal([row[0] for row in mine], [row[0] for row in expected])
            assert sum(row[2] for row in mine) == 2


class Counting:
    """A real EnvPool, and the actions that were sent to it."""

    def __init__(self, pool: Any) -> None:
        self._pool, self.sent = pool, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def send(self, actions: Array, lane: Array) -> None:
        self.sent += actions.tolist()
        self._pool.send(actions, lane)


def openings(seed: int) -> list[list[int]]:
    """What is pressed after each of some lost lives."""
    env = EnvConfig(task="Breakout-v5", noop_max=3, episodic_life=True)
    pool = Counting(make(env, 1, [0], batch_size=1, **FRAME_BY_FRAME))
    ours, found = ResizeFirstPool(pool, env, recv_batch=1, seeds=[seed], training=True), list[list[int]]()
    while len(found) < 9:
        _, _, terminated, _, info = ours.recv()
        pool.sent.clear()
        ours.send(np.array([3]), info["env_id"])
        if terminated[0] and not info["terminated"][0]:
            ours.recv()
            found.append(pool.sent[:])
            ours.send(np.array([3]), info["env_id"])
    return found


def test_no_ops_and_fire_follow_a_lost_life() -> None:
    drawn = openings(0)
    assert all(actions[-1] == FIRE and not any(actions[:-1]) for actions in drawn)
    assert {len(actions) for actions in drawn} == {1, 2, 3}
    assert openings(0) == drawn
    assert openings(1) != drawn
