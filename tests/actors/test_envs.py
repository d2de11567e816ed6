import subprocess
import sys

import numpy as np
import pytest

from actors.envs import EnvPoolLanes, chunk_spec, env_spec
from actors.lane_ids import check_lane_ids
from actors.lanes import EnvSpec, LaneRows
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array

pytestmark = pytest.mark.slow

PONG = EnvConfig(task="Pong-v5", frame_size=24, noop_max=1)
BREAKOUT = EnvConfig(task="Breakout-v5", frame_size=24, noop_max=1, frame_skip=16)


def play(env: EnvConfig, batches: int, *, lanes: int = 1, training: bool = True, seed: int = 0) -> list[LaneRows]:
    """Rows under random actions, in lockstep."""
    rng, received = np.random.default_rng(seed), list[LaneRows]()
    num_actions = env_spec(env).num_actions
    with EnvPoolLanes(env, lanes=lanes, recv_batch=lanes, seed=seed, threads=1, training=training) as pool:
        for _ in range(batches):
            received.append(pool.recv())
            pool.send(rng.integers(0, num_actions, lanes), received[-1].lane)
    return received


def column(received: list[LaneRows], name: str) -> Array:
    return np.concatenate([getattr(rows, name) for rows in received])


def test_what_environments_look_like() -> None:
    assert env_spec(PONG) == EnvSpec((24, 24), "uint8", 6, stack=4, frame_skip=4)
    assert env_spec(EnvConfig(task="CartPole-v1")) == EnvSpec((4,), "float32", 2, stack=1, frame_skip=1)
    assert env_spec(EnvConfig(task="Catch-v0")) == EnvSpec((50,), "float32", 3, stack=1, frame_skip=1)
    spec = chunk_spec(PONG, chunk_steps=32, n_step=5)
    assert (spec.frame_shape, spec.history, spec.steps, spec.lookahead) == ((24, 24), 3, 32, 5)


@pytest.mark.parametrize("task", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_continuous_actions_are_refused(task: str) -> None:
    with pytest.raises(UserError, match="discrete actions") as error:
        EnvPoolLanes(EnvConfig(task=task), lanes=1, recv_batch=1, seed=0, threads=1, training=True)
    assert error.value.field == "env.task"
    assert error.value.value == task


def test_state_indexes_are_refused() -> None:
    with pytest.raises(UserError, match="neither grey frames nor vectors"):
        env_spec(EnvConfig(task="FrozenLake-v1"))


def test_a_family_that_cannot_be_made_here_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def make_spec(task: str) -> None:
            raise ImportError(f"{task} requires\nthe system Qt 5 runtime.")

    def broken(_: str) -> type[Broken]:
        return Broken

    monkeypatch.setattr("actors.envs.load_envpool", broken)
    with pytest.raises(UserError, match="requires the system Qt 5 runtime; install what is missing; or") as error:
        env_spec(EnvConfig(task="CoinrunEasy-v0"))
    assert (error.value.field, error.value.value) == ("env.task", "CoinrunEasy-v0")


def test_one_task_of_each_family_is_taken_or_refused_as_a_user_s_error() -> None:
    code = """
from contextlib import suppress
from actors.envs import env_spec
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
with suppress(UserError):
    env_spec(EnvConfig(task="NoSuch-v0"))  # loads all families
import envpool
registry = envpool.registration.registry
first = {kind[0]: task for task, kind in sorted(registry.specs.items(), reverse=True)}
tasks = sorted({*first.values(), "CoinrunEasy-v0", "VizdoomCustom-v1"})
for task in tasks:
    try:
        env_spec(EnvConfig(task=task))
    except UserError as error:
        assert (error.field, error.value) == ("env.task", task)
        assert len(str(error).splitlines()) == 1, error
print(len(tasks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15


@pytest.mark.parametrize(
    ("task", "frames", "ends"), [("CartPole-v1", (1, 4), "terminated"), ("Catch-v0", (1, 50), "terminated")]
)
def test_vector_tasks_run(task: str, frames: tuple[int, ...], ends: str) -> None:
    received = play(EnvConfig(task=task), 200, lanes=3)
    assert received[0].observation.shape == (3, *frames)
    assert received[0].observation.dtype == np.float32
    assert column(received, ends).any()
    assert not column(received, "lives").any()


def test_a_tasks_own_time_limit_stays() -> None:
    received = play(EnvConfig(task="MountainCar-v0"), 202)
    assert np.flatnonzero(column(received, "truncated")).tolist() == [200]


def test_the_row_after_an_end_opens_an_episode_with_nothing_before_it() -> None:
    received = play(PONG.model_copy(update={"max_episode_steps": 5}), 30)
    first, truncated = column(received, "first"), column(received, "truncated")
    assert np.flatnonzero(first).tolist() == [0, 6, 12, 18, 24]
    assert np.flatnonzero(truncated).tolist() == [5, 11, 17, 23, 29]
    assert not column(received, "terminated").any()
    assert not column(received, "reward")[first].any()


def test_a_game_that_ends_on_the_last_step_of_its_time_limit_has_terminated() -> None:
    env = BREAKOUT
    length = int(np.flatnonzero(column(play(env, 100), "terminated"))[0])
    received = play(env.model_copy(update={"max_episode_steps": length}), length + 1)
    assert (received[-1].terminated, received[-1].truncated, received[-1].game_over) == (True, False, True)
    received = play(env.model_copy(update={"max_episode_steps": length - 1}), length)
    assert (received[-1].terminated, received[-1].truncated, received[-1].game_over) == (False, True, True)


def test_lost_lives_end_training_episodes_only() -> None:
    env = BREAKOUT.model_copy(update={"episodic_life": True})
    training, whole = play(env, 100), play(env, 100, training=False)
    lives = column(training, "lives").astype(int)
    lost = np.flatnonzero(np.diff(lives) < 0) + 1
    np.testing.assert_array_equal(np.flatnonzero(column(training, "terminated")), lost)
    np.testing.assert_array_equal(np.flatnonzero(column(training, "game_over")), lost[lives[lost] == 0])
    np.testing.assert_array_equal(column(whole, "terminated"), column(whole, "game_over"))
    assert 1 <= column(whole, "terminated").sum() < column(training, "terminated").sum()


@pytest.mark.parametrize(
    ("stack_fill", "resize_order"),
    [
        ("zeros", "pool_first"),
        ("first_frame", "pool_first"),
        ("zeros", "resize_first"),
        ("first_frame", "resize_first"),
    ],
)
def test_stacks_do_not_reach_over_the_start_of_an_episode(stack_fill: str, resize_order: str) -> None:
    protocol = {"episodic_life": True, "stack_fill": stack_fill, "resize_order": resize_order}
    received = play(BREAKOUT.model_copy(update=protocol), 60)
    opened = -1
    for t, rows in enumerate(received):
        opened = t if rows.first[0] else opened
        for plane, step in enumerate(range(t - 3, t + 1)):
            expected = received[max(step, opened)].frame[0]
            if step < opened and stack_fill == "zeros":
                expected = np.zeros_like(expected)
            np.testing.assert_array_equal(rows.observation[0, plane], expected)
    assert column(received, "first").sum() > 3


def test_rows_keep_their_content_while_lanes_go_on() -> None:
    with EnvPoolLanes(PONG, lanes=4, recv_batch=2, seed=0, threads=1, training=True) as lanes:
        kept: list[tuple[LaneRows, Array]] = []
        for _ in range(50):
            rows = lanes.recv()
            kept.append((rows, rows.observation.copy()))
            lanes.send(np.zeros(2, np.int64), rows.lane)
    for rows, observation in kept:
        np.testing.assert_array_equal(rows.observation, observation)


def test_lockstep_play_repeats_itself_and_lanes_differ() -> None:
    env = PONG.model_copy(update={"noop_max": 30})
    one, same, other = (play(env, 20, lanes=3, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(column(one, "observation"), column(same, "observation"))
    assert (column(one, "observation") != column(other, "observation")).any()
    assert any((rows.observation[0] != rows.observation[1]).any() for rows in one)


@pytest.mark.parametrize(("ids", "owed"), [([0, 0], [0, 1]), ([0, 1], [0]), ([2], [0, 1])])
def test_mixed_up_lanes_are_refused(ids: list[int], owed: list[int]) -> None:
    awaited = np.zeros(3, bool)
    awaited[owed] = True
    with pytest.raises(UserError, match="does not fit NumPy"):
        check_lane_ids(np.array(ids, np.int32), awaited)
    check_lane_ids(np.array(owed, np.int32), awaited)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_only_the_families_in_use_are_loaded() -> None:
    report = run_python("""
import sys
from actors.envs import env_spec
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError

print(env_spec(EnvConfig(task="Pong-v5")).num_actions, "envpool.procgen.registration" in sys.modules)
for task in ("Pongg-v5", "LunarLandr-v3"):
    try:
        env_spec(EnvConfig(task=task))
    except UserError as error:
        print(error)
print(env_spec(EnvConfig(task="LunarLander-v3")).frame_shape, "envpool.procgen.registration" in sys.modules)
""")
    lean, pong, lander, full = report.splitlines()
    assert lean == "6 False"
    assert pong.startswith("env.task = 'Pongg-v5': is no EnvPool task; did you mean Pong-v5")
    assert "LunarLander-v3" in lander
    assert full == "(8,) True"


def test_an_unknown_version_of_envpool_is_imported_plainly() -> None:
    report = run_python("""
import sys
import actors.envs as envs
from upcycle.config.run import EnvConfig

envs._VERIFIED_VERSIONS = frozenset()
print(envs.env_spec(EnvConfig(task="Pong-v5")).num_actions, "envpool.procgen.registration" in sys.modules)
""")
    assert report == "6 True"
