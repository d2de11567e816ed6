"""Resizes frames before taking the maximum of two, where EnvPool takes the maximum first and resizes the result.

    EnvPoolLanes -> ResizeFirstPool -> EnvPool with a frame skip of 1, which resizes every frame of the emulator

Sticky actions, rewards, lives, time limits and the ends of games equal those of an EnvPool with frame skip, frame by
frame. Two things differ: the number of no-ops after a lost life comes from another generator than EnvPool's, and the
last observation of a game that ends in the middle of a step is exactly its last frame.

Four frames are resized for each step instead of one: a step of Pong or Breakout at 84x84 takes 1.6 times the processor
time where lanes come by halves, as in actors, and 2.3 times in lockstep, where frames are received one at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np

from actors.lane_ids import check_lane_ids
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.networks.action_names import action_names

FRAME_BY_FRAME: Final[Mapping[str, Any]] = {
    "frame_skip": 1,
    "stack_num": 1,
    "episodic_life": False,
    "max_episode_steps": 2**31 - 1,
}
"""Arguments of the EnvPool below a `ResizeFirstPool`, which does all of this itself."""


def frames_per_recv(lanes: int, recv_batch: int) -> int:
    """The batch size of the EnvPool below a pool of `recv_batch` rows: that many frames are always pending."""
    return min(recv_batch, lanes - recv_batch + 1)


class ResizeFirstPool:
    """Replaces an asynchronous EnvPool of Atari games with grey frames: the same calls, the same rows.

    Stacks keep the frames from before an episode; the caller fills them.

    Args:
      pool: EnvPool of the same lanes and protocol except `FRAME_BY_FRAME`, which receives `frames_per_recv` rows.
      env: environment and protocol, with the actions of `upcycle.networks.action_names`.
      recv_batch: rows per `recv`; all lanes come in order.
      seeds: one for each lane, of the no-ops after a lost life.
      training: False ends no episode with a lost life.
    """

    def __init__(self, pool: Any, env: EnvConfig, *, recv_batch: int, seeds: Sequence[int], training: bool) -> None:
        names, lanes = action_names(env), len(seeds)
        assert names, f"the action names of {env.task} are unknown"
        frame_shape = cast(tuple[int, ...], pool.observation_space.shape[1:])
        self._pool, self._recv_batch, self._in_order = pool, recv_batch, recv_batch == lanes
        self._frame_skip, self._noop_max, self._max_episode_steps = env.frame_skip, env.noop_max, env.max_episode_steps
        self._episodic_life = env.episodic_life and training
        self._noop = names.index("noop") if "noop" in names else 0  # two games have neither a no-op nor lives
        self._last = names.index("fire") if env.fire_reset and "fire" in names else self._noop
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._ready = list[int]()  # lanes whose row is complete
        self._awaited = np.ones(lanes, bool)  # lanes with a frame pending
        self._opening = np.ones(lanes, bool)  # its frames open an episode
        self._left = np.ones(lanes, np.int64)  # frames that its row still lacks
        self._action = np.zeros(lanes, np.int32)
        self._stack = np.zeros((lanes, env.frame_stack, *frame_shape), np.uint8)
        self._frame = np.zeros((lanes, *frame_shape), np.uint8)
        self._reward = np.zeros(lanes, np.float32)
        self._steps = np.zeros(lanes, np.int64)  # since its game began
        self._lives = np.zeros(lanes, np.int32)
        self._game_over, self._life_lost, self._truncated = (np.zeros(lanes, bool) for _ in range(3))

    def async_reset(self) -> None:
        """Starts a game in every lane."""
        self._pool.async_reset()

    def recv(self) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """Observations, rewards, terminated, truncated and EnvPool's info, for the next lanes."""
        while len(self._ready) < self._recv_batch:
            self._advance()
        lane = np.array(self._ready[: self._recv_batch], np.int32)
        del self._ready[: self._recv_batch]
        if self._in_order:
            lane.sort()
        terminated = (self._game_over | self._life_lost) & ~self._truncated
        info = {"env_id": lane, "lives": self._lives[lane], "terminated": self._game_over[lane]}
        return self._stack[lane], self._reward[lane], terminated[lane], self._truncated[lane], info

    def send(self, actions: Array, lane: Array) -> None:
        """Steps lanes; those whose episode has ended open the next one, and their action is ignored."""
        new_game = self._game_over[lane] | self._truncated[lane]
        self._opening[lane] = opening = new_game | self._life_lost[lane]
        self._action[lane] = actions
        self._left[lane] = np.where(opening, 1, self._frame_skip)
        for life_lost in lane[opening & ~new_game]:
            self._left[life_lost] = self._rngs[life_lost].integers(self._noop_max) + 1
        self._steps[lane[new_game]] = 0
        self._reward[lane] = 0
        if (cut_off := self._truncated[lane]).any():
            self._awaited[lane[cut_off]] = True
            self._pool._reset(lane[cut_off])  # EnvPool's `reset` would wait for rows as well
        self._play(lane[~cut_off])

    def close(self) -> None:
        """Closes the environments."""
        self._pool.close()

    def _play(self, lane: Array) -> None:
        """Sends the next frame's actions."""
        if len(lane):
            opening = np.where(self._left[lane] == 1, self._last, self._noop)
            self._awaited[lane] = True
            self._pool.send(np.where(self._opening[lane], opening, self._action[lane]).astype(np.int32), lane)

    def _advance(self) -> None:
        """Receives frames and requests those that their rows still lack."""
        received = cast(tuple[Array, Array, Array, Array, dict[str, Array]], self._pool.recv())
        frame, lane = received[0][:, -1], received[4]["env_id"]
        check_lane_ids(lane, self._awaited)
        self._awaited[lane] = False
        self._left[lane] -= 1
        left, opening = self._left[lane], self._opening[lane]
        if self._frame_skip > 1:
            pooled = (left == 0) & ~opening
            frame[pooled] = np.maximum(frame[pooled], self._frame[lane[pooled]])
        self._frame[lane] = frame
        self._reward[lane] += received[1]
        self._game_over[lane] = game_over = received[4]["terminated"] != 0
        again = opening & game_over  # during the no-ops after a lost life: EnvPool begins a game
        self._left[lane[again]] = 1
        self._steps[lane[again]] = 0
        complete = ((left == 0) | game_over) & ~again
        self._complete(lane[complete], received[4]["lives"][complete])
        self._play(lane[~complete])

    def _complete(self, lane: Array, lives: Array) -> None:
        playing = ~self._opening[lane]
        self._steps[lane] += playing
        self._truncated[lane] = playing & (self._steps[lane] >= self._max_episode_steps)
        self._life_lost[lane] = playing & self._episodic_life & (lives > 0) & (lives < self._lives[lane])
        self._lives[lane] = lives
        self._stack[lane, :-1] = self._stack[lane, 1:]
        self._stack[lane, -1] = self._frame[lane]
        self._ready.extend(lane.tolist())
