"""What replay rebuilds from chunks is what the policy saw, frame by frame, over real games."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from actors.chunk_writer import ChunkWriter
from actors.envs import EnvPoolLanes, chunk_spec
from actors.lanes import LaneRows
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, decode_chunk, encode_chunk
from upcycle.experience.windows import StackFill, View, gather_windows, valid_starts

pytestmark = pytest.mark.slow

LANES = 4  # each builds an emulator, a fifth of a second


class Recording:
    """Rows of one playing, by a number that travels through the chunks as their `policy_version`."""

    def __init__(self, env: EnvConfig, spec: ChunkSpec, *, batches: int, seed: int) -> None:
        rng, writer = np.random.default_rng(seed), ChunkWriter(spec, LANES)
        self.rows: dict[int, tuple[Array, int]] = {}  # observation and action
        self.streams: dict[int, list[int]] = defaultdict(list)  # rows of each lane, in order
        self.outcomes: dict[int, tuple[float, bool, bool]] = {}  # what came back for a row
        self.ended: set[int] = set()
        self.firsts: set[int] = set()
        chunks: list[Chunk] = []
        with EnvPoolLanes(env, lanes=LANES, recv_batch=2, seed=seed, threads=1, training=True) as lanes:
            for _ in range(batches):
                rows = lanes.recv()
                action = rng.integers(0, spec.num_actions, len(rows.lane))
                numbers = np.arange(len(self.rows), len(self.rows) + len(rows.lane))
                self._note(rows, action, numbers)
                lanes.send(action, rows.lane)
                chunks += writer.push(rows, action, policy_version=numbers)
            chunks += writer.flush()
        self.chunks = [decode_chunk(encode_chunk(chunk, spec), spec) for chunk in chunks]

    def _note(self, rows: LaneRows, action: Array, numbers: Array) -> None:
        for i, (lane, number) in enumerate(zip(rows.lane.tolist(), numbers.tolist(), strict=True)):
            if self.streams[lane]:
                outcome = (float(rows.reward[i]), bool(rows.terminated[i]), bool(rows.truncated[i]))
                self.outcomes[self.streams[lane][-1]] = outcome
            self.streams[lane].append(number)
            self.rows[number] = (rows.observation[i].copy(), int(action[i]))
            if rows.ended[i]:
                self.ended.add(number)
            if rows.first[i]:
                self.firsts.add(number)

    def transitions(self) -> set[int]:
        """Rows that start a transition: their outcome is known and they end no episode."""
        return set(self.outcomes) - self.ended


def check(recording: Recording, env: EnvConfig, spec: ChunkSpec) -> None:
    """Every transition is there once, with the observations, action and outcome it had."""
    stack = spec.history + 1
    view = View(n_step=1, stack=stack, clip_rewards=False, stack_fill=env.stack_fill)
    successor = {a: b for stream in recording.streams.values() for a, b in pairwise(stream)}
    seen: list[int] = []
    for chunk in recording.chunks:
        columns = {name: column[None] for name, column in chunk.columns.items()}
        offsets = np.flatnonzero(chunk.columns["priority"][spec.history : spec.history + spec.steps] > 0)
        padded = {name: np.pad(column, ((0, 0), (0, spec.rows - chunk.num_rows))) for name, column in columns.items()}
        valid = valid_starts(spec, padded, np.array([chunk.num_rows]), n_step=1)[0]
        np.testing.assert_array_equal(np.flatnonzero(valid), offsets)
        windows = gather_windows(spec, chunk.frame[None], columns, np.zeros_like(offsets), offsets, view)
        for b, number in enumerate(chunk.columns["policy_version"][spec.history + offsets].tolist()):
            observation, action = recording.rows[number]
            reward, terminated, _ = recording.outcomes[number]
            np.testing.assert_array_equal(windows.frames[b, :stack], observation)
            assert windows.action[b] == action
            assert windows.n_step_return[b] == reward
            assert (windows.discount[b] == 0) == terminated
            if not terminated:
                np.testing.assert_array_equal(windows.frames[b, 1:], recording.rows[successor[number]][0])
            seen.append(number)
    assert len(seen) == len(set(seen))
    assert set(seen) == recording.transitions()


@pytest.mark.parametrize("stack_fill", ["first_frame", "zeros"])
def test_pong_with_time_limits(stack_fill: StackFill) -> None:
    env = EnvConfig(
        task="Pong-v5", frame_size=24, frame_skip=8, max_episode_steps=23, noop_max=1, stack_fill=stack_fill
    )
    spec = chunk_spec(env, chunk_steps=16, n_step=3)
    recording = Recording(env, spec, batches=800, seed=1)
    assert len(recording.ended) > 60
    assert all(truncated for _, terminated, truncated in recording.outcomes.values() if terminated or truncated)
    check(recording, env, spec)


def test_whole_pong_games() -> None:
    env = EnvConfig(task="Pong-v5", frame_size=24, frame_skip=16)
    spec = chunk_spec(env, chunk_steps=64, n_step=3)
    recording = Recording(env, spec, batches=1000, seed=2)
    assert any(terminated for _, terminated, _ in recording.outcomes.values())
    assert any(reward == -1 for reward, _, _ in recording.outcomes.values())
    check(recording, env, spec)


@pytest.mark.parametrize("stack_fill", ["first_frame", "zeros"])
@pytest.mark.parametrize("episodic_life", [False, True])
def test_breakout_with_lives(stack_fill: StackFill, episodic_life: bool) -> None:
    env = EnvConfig(
        task="Breakout-v5", frame_size=24, frame_skip=16, stack_fill=stack_fill, episodic_life=episodic_life
    )
    spec = chunk_spec(env, chunk_steps=16, n_step=3)
    recording = Recording(env, spec, batches=500, seed=3)
    assert len(recording.ended) >= (15 if episodic_life else 3)
    assert all(terminated for _, terminated, truncated in recording.outcomes.values() if terminated or truncated)
    check(recording, env, spec)


def test_cart_poles_need_no_history() -> None:
    env = EnvConfig(task="CartPole-v1", max_episode_steps=30)
    spec = chunk_spec(env, chunk_steps=8, n_step=2)
    assert spec.history == 0
    recording = Recording(env, spec, batches=1400, seed=4)
    ends = {(terminated, truncated) for _, terminated, truncated in recording.outcomes.values()}
    assert ends == {(False, False), (True, False), (False, True)}
    check(recording, env, spec)
