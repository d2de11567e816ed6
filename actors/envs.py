"""Environment lanes: EnvPool's asynchronous interface, with the rows of `chunks`. The only envpool import.

EnvPool resets on the next step: the row that ends an episode carries the true final observation, the action sent in it
is ignored, and the lane's next row opens the next episode with reward 0.
"""

import importlib
import sys
import types
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final, Self, cast

import numpy as np

from actors.lane_ids import check_lane_ids
from actors.lanes import EnvSpec, LaneRows, Lanes, custom_lanes, custom_spec
from actors.resize_first import FRAME_BY_FRAME, ResizeFirstPool, frames_per_recv
from actors.task_errors import failures_explained, unknown_task
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, ChunkSpec

_VERIFIED_VERSIONS: Final = frozenset({"1.2.5"})
"""EnvPool versions whose families are known to work when imported one by one."""
_LEAN_FAMILIES: Final = ("atari", "toy_text", "classic_control")
_LEAN_ENTRY: Final = types.ModuleType("envpool.entry")
_SEED_BOUND: Final = 2**31


class EnvPoolLanes:
    """Lanes of one environment, stepped asynchronously: `recv` some rows, `send` one action for each of them, repeat.

    Args:
      env: environment and protocol.
      lanes: how many environments.
      recv_batch: rows per `recv`, at most `lanes`; equal to `lanes` makes the order of rows the same in every run.
      seed: from which each lane gets an independent seed of its own.
      threads: EnvPool's threads.
      training: whether `env.episodic_life` applies; False plays whole games.
    Raises: UserError if the task is unknown, or its actions or observations are not supported.
    """

    def __init__(self, env: EnvConfig, *, lanes: int, recv_batch: int, seed: int, threads: int, training: bool) -> None:
        assert 1 <= recv_batch <= lanes, f"recv_batch {recv_batch} of {lanes} lanes"
        self.spec = env_spec(env)
        self.lanes = lanes
        self._zeros = env.stack_fill == "zeros"
        self._has_lives = _is_atari(env.task)
        seeds = np.random.SeedSequence(seed).generate_state(lanes) % _SEED_BOUND
        self._pool: Any = _make_pool(
            env,
            lanes=lanes,
            recv_batch=recv_batch,
            seeds=[int(lane_seed) for lane_seed in seeds],
            threads=threads,
            training=training,
        )
        self._awaited = np.ones(lanes, bool)  # lanes with a step pending
        self._ended = np.ones(lanes, bool)  # its next row opens an episode
        self._age = np.zeros(lanes, np.int64)  # steps since its episode began
        self._no_lives = np.zeros(lanes, np.int32)
        self._pool.async_reset()

    def recv(self) -> LaneRows:
        """Waits for the next `recv_batch` lanes to finish their step and returns their rows.

        Raises: UserError if the installed EnvPool returns wrong lane ids.
        """
        received = cast(tuple[Array, Array, Array, Array, dict[str, Array]], self._pool.recv())
        observation, reward, terminated, truncated, info = received
        lane = info["env_id"]
        check_lane_ids(lane, self._awaited)
        self._awaited[lane] = False
        game_over, lives = terminated | truncated, self._no_lives[lane]
        if self._has_lives:
            lives, died = info["lives"], info["terminated"] != 0
            # A game that ends on the last step of its time limit is terminated: there is nothing to bootstrap from.
            terminated, truncated, game_over = terminated | died, truncated & ~died, truncated | died
        first = self._ended[lane]
        self._ended[lane] = terminated | truncated
        age = self._age[lane] + 1
        age[first] = 0
        self._age[lane] = age
        if self.spec.frame_dtype == "uint8":
            self._fill_stacks(observation, age)
        else:
            observation = observation.reshape(len(lane), 1, -1).astype(np.float32, copy=False)
        reward = reward.astype(np.float32, copy=False)
        reward[first] = 0
        return LaneRows(lane, observation, reward, terminated, truncated, first, game_over, lives)

    def send(self, actions: Array, lane: Array) -> None:
        """Steps the lanes received last. Args: actions, int [M], for the lane ids, int [M]."""
        self._awaited[lane] = True
        self._pool.send(actions.astype(np.int32, copy=False), lane)

    def close(self) -> None:
        """Closes the environments. Safe to call twice."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill_stacks(self, observation: Array, age: Array) -> None:
        """Overwrites frames from before the episode, in place.

        EnvPool repeats the first frame when a game starts, and after a lost life it keeps the old frames.
        """
        for row in np.flatnonzero(age < self.spec.stack - 1):
            opening = self.spec.stack - 1 - int(age[row])
            observation[row, :opening] = 0 if self._zeros else observation[row, opening]


def make_lanes(env: EnvConfig, *, lanes: int, recv_batch: int, seed: int, threads: int, training: bool) -> Lanes:
    """Lanes of EnvPool, or of the environment that `env.factory` names. Arguments as of `EnvPoolLanes`.

    Raises: UserError as `EnvPoolLanes` does, or if the factory cannot be loaded or fails.
    """
    make = custom_lanes if env.factory else EnvPoolLanes
    return make(env, lanes=lanes, recv_batch=recv_batch, seed=seed, threads=threads, training=training)


def env_spec(env: EnvConfig) -> EnvSpec:
    """The shapes and actions of `env`, without starting it.

    Raises: UserError if its factory cannot be loaded or fails, the task is unknown (naming the nearest), EnvPool cannot
      make it here, its actions are not discrete, or its observations are neither grey frames nor vectors.
    """
    if env.factory:
        return custom_spec(env)
    is_atari = _is_atari(env.task)
    spec = _spec_of(env.task, full_action_space=is_atari and env.full_action_space)
    action, state = spec.action_array_spec, cast(Mapping[str, Any], spec.state_array_spec)
    discrete = (
        "action" in action and list(action["action"].shape) == [-1] and np.dtype(action["action"].dtype).kind == "i"
    )
    if not discrete or spec.config.max_num_players != 1:
        raise UserError(
            "env.task", env.task, "is not a single-player task with discrete actions", "choose one, for example Pong-v5"
        )
    num_actions = int(action["action"].maximum) + 1
    if is_atari:
        size = env.frame_size
        return EnvSpec((size, size), "uint8", num_actions, stack=env.frame_stack, frame_skip=env.frame_skip)
    shape = [int(n) for n in state["obs"].shape] if "obs" in state else [-1]
    if min(shape) < 1 or np.dtype(state["obs"].dtype) == np.uint8:
        raise UserError(
            "env.task", env.task, "has observations that are neither grey frames nor vectors", "choose another task"
        )
    return EnvSpec((int(np.prod(shape)),), "float32", num_actions, stack=1, frame_skip=1)


def chunk_spec(env: EnvConfig, chunk_steps: int, n_step: int) -> ChunkSpec:
    """The chunks of a run in `env`: they support every stack up to the protocol's and every horizon up to `n_step`.

    Raises: UserError as `env_spec` does.
    """
    spec = env_spec(env)
    return ChunkSpec(
        frame_shape=spec.frame_shape,
        frame_dtype=spec.frame_dtype,
        num_actions=spec.num_actions,
        steps=chunk_steps,
        history=spec.stack - 1,
        lookahead=n_step,
    )


def _make_pool(env: EnvConfig, *, lanes: int, recv_batch: int, seeds: list[int], threads: int, training: bool) -> Any:
    """An EnvPool, or its replacement that resizes first."""
    protocol, batch_size = _protocol(env, training=training), recv_batch
    resizes_first = _is_atari(env.task) and env.resize_order == "resize_first"
    if resizes_first:
        protocol, batch_size = {**protocol, **FRAME_BY_FRAME}, frames_per_recv(lanes, recv_batch)
    with warnings.catch_warnings():  # gymnasium warns about the precision of infinite bounds
        warnings.simplefilter("ignore", UserWarning)
        with failures_explained(env.task):
            pool: Any = load_envpool(env.task).make(
                env.task,
                env_type="gymnasium",
                num_envs=lanes,
                batch_size=batch_size,
                num_threads=threads,
                seed=seeds,
                **protocol,
            )
            _ = pool.observation_space  # built once, on first use
    if resizes_first:
        pool = ResizeFirstPool(pool, env, recv_batch=recv_batch, seeds=seeds, training=training)
    return pool


def _protocol(env: EnvConfig, *, training: bool) -> dict[str, Any]:
    """EnvPool's arguments for the protocol of `env`."""
    if not _is_atari(env.task):
        own_limit = int(_spec_of(env.task).config.max_episode_steps)
        return {"max_episode_steps": min(own_limit, env.max_episode_steps)}
    return {
        "img_height": env.frame_size,
        "img_width": env.frame_size,
        "stack_num": env.frame_stack,
        "frame_skip": env.frame_skip,
        "noop_max": env.noop_max,
        "use_fire_reset": env.fire_reset,
        "full_action_space": env.full_action_space,
        "use_inter_area_resize": env.interpolation == "area",
        "episodic_life": env.episodic_life and training,
        "reward_clip": False,
        "repeat_action_probability": env.sticky_actions,
        "max_episode_steps": env.max_episode_steps,
    }


@cache
def _is_atari(task: str) -> bool:
    return hasattr(_spec_of(task).config, "repeat_action_probability")


@cache  # it builds an emulator, which takes a fifth of a second
def _spec_of(task: str, *, full_action_space: bool = False) -> Any:
    """EnvPool's description of a task. Raises: UserError if the task is unknown or cannot be made here."""
    options = {"full_action_space": True} if full_action_space else {}
    with failures_explained(task):
        return load_envpool(task).make_spec(task, **options)


def load_envpool(task: str) -> Any:
    """The module `envpool`, with `task` registered.

    A plain `import envpool` loads every family of environments, which costs seconds and 100 MB in each actor. With a
    verified version only the small families are loaded, and the rest if none of them has the task.

    Raises: UserError if no family has the task.
    """
    if "envpool" not in sys.modules and version("envpool") in _VERIFIED_VERSIONS:
        sys.modules["envpool.entry"] = _LEAN_ENTRY  # envpool imports its families through this module
    envpool: Any = importlib.import_module("envpool")
    if sys.modules["envpool.entry"] is _LEAN_ENTRY:
        for family in _LEAN_FAMILIES:
            importlib.import_module(f"envpool.{family}.registration")
        if task not in envpool.list_all_envs():
            del sys.modules["envpool.entry"]
            importlib.import_module("envpool.entry")
    known = cast(list[str], envpool.list_all_envs())
    if task not in known:
        raise unknown_task(task, known)
    return envpool
