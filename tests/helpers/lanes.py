"""Made-up lanes of experience whose transitions are known in advance, without looking at chunks or windows.

A lane is a list of episodes. Its chunks are cut here in the plainest way, so that tests of the table and of windows do
not depend on the actor's code.
"""

from dataclasses import dataclass

import numpy as np

from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec
from upcycle.experience.windows import View


@dataclass(frozen=True)
class Episode:
    """`length` steps; frames are numbered through the lane, the final observation included."""

    frames: Array  # [length + 1, *frame_shape]
    actions: Array
    rewards: Array
    ending: str  # "terminated", "truncated", or "open": the lane was cut off, there is no final observation

    @property
    def length(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Transition:
    """What the learner must get for one step of one episode."""

    observation: Array
    action: int
    n_step_return: float
    discount: float
    next_observation: Array | None  # None where nothing may be bootstrapped


def make_lane(spec: ChunkSpec, lengths: list[int], endings: list[str], *, seed: int) -> list[Episode]:
    rng = np.random.default_rng(seed)
    episodes, next_frame = list[Episode](), 1
    for length, ending in zip(lengths, endings, strict=True):
        numbers = np.arange(next_frame, next_frame + length + 1)
        next_frame += length + 1
        frames = np.empty((length + 1, *spec.frame_shape), spec.frame_dtype)
        frames[:] = (numbers % 251).reshape(-1, *[1] * len(spec.frame_shape))
        actions = rng.integers(spec.num_actions, size=length).astype(np.int32)
        rewards = rng.choice([-3.0, -1.0, 0.0, 0.0, 0.25, 1.0, 7.0], size=length).astype(np.float32)
        episodes.append(Episode(frames, actions, rewards, ending))
    return episodes


def cut_chunks(spec: ChunkSpec, lane: list[Episode], *, policy_version: int = 0) -> tuple[list[Chunk], Array]:
    """The lane's chunks, and where each row came from: int64 [rows of the lane, 2] of episode and step."""
    frames, origin = [np.zeros(spec.frame_shape, spec.frame_dtype)] * spec.history, [(-1, -1)] * spec.history
    columns: dict[str, list[float]] = {name: [0] * spec.history for name in COLUMNS}
    for number, episode in enumerate(lane):
        rows = episode.length + (episode.ending != "open")
        for step in range(rows):
            is_step, is_last = step < episode.length, step == episode.length - 1
            frames.append(episode.frames[step])
            origin.append((number, step))
            values = {
                "action": episode.actions[step] if is_step else 0,
                "reward": episode.rewards[step] if is_step else 0,
                "terminated": is_last and episode.ending == "terminated",
                "truncated": is_last and episode.ending == "truncated",
                "first": step == 0,
                "priority": 1 + step % 3 if is_step else 0,
                "policy_version": policy_version,
            }
            for name, value in values.items():
                columns[name].append(float(value))
    chunks = list[Chunk]()
    for begin in range(0, len(frames) - spec.history, spec.steps):
        rows = slice(begin, min(begin + spec.rows, len(frames)))
        chunks.append(
            Chunk(
                frame=np.stack(frames[rows]),
                columns={name: np.array(columns[name][rows], dtype) for name, dtype in COLUMNS.items()},
            )
        )
    return chunks, np.array(origin)


def expected_transition(spec: ChunkSpec, lane: list[Episode], episode: int, step: int, view: View) -> Transition | None:
    """The transition that starts at a step, told from the episode alone; None where there is none."""
    told = lane[episode]
    if step >= told.length:
        return None
    end = min(step + view.n_step, told.length)
    reaches_end = end == told.length
    if reaches_end and told.ending == "open" and end - step <= view.n_step:
        return None  # the state to bootstrap from was never seen
    if reaches_end and told.ending == "truncated" and end - step < view.n_step:
        return None
    rewards = [float(reward) for reward in told.rewards[step:end]]
    if view.clip_rewards:
        rewards = [max(-1.0, min(1.0, reward)) for reward in rewards]
    terminated = reaches_end and told.ending == "terminated"
    return Transition(
        observation=_stack(spec, told, step, view),
        action=int(told.actions[step]),
        n_step_return=sum(view.gamma**k * reward for k, reward in enumerate(rewards)),
        discount=0.0 if terminated else view.gamma**view.n_step,
        next_observation=None if terminated else _stack(spec, told, end, view),
    )


def _stack(spec: ChunkSpec, episode: Episode, step: int, view: View) -> Array:
    missing = np.zeros(spec.frame_shape, spec.frame_dtype) if view.stack_fill == "zeros" else episode.frames[0]
    return np.stack([episode.frames[i] if i >= 0 else missing for i in range(step - view.stack + 1, step + 1)])
