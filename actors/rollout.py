"""Plays with a fixed Q function: whole episodes for a score, or chunks for a buffer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.chunk_writer import ChunkWriter
from actors.envs import env_spec, make_lanes
from actors.episodes import EpisodeTracker
from actors.policy import epsilon_greedy
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array, Chunk, ChunkSpec
from upcycle.runs.runtime import Games, OnGames, Stop

QFunction = Callable[[Array], Array]
"""Observations [M, stack, *frame_shape] to Q values [M, A]."""

_REPORT_STEPS: Final = 200  # between two reports, in each lane, while no game ends


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeResults:
    """Scores of whole episodes, in the order in which they started.

    Attributes:
      returns: raw, float64 [episodes].
      lengths: agent steps, int64 [episodes].
      complete: False if playing was stopped; the episodes are then a biased selection, those that had ended.
    """

    returns: Array
    lengths: Array
    complete: bool

    @property
    def mean_return(self) -> float:
        """Mean raw return; NaN without episodes."""
        return float(self.returns.mean()) if len(self.returns) else float("nan")


def play_episodes(
    env: EnvConfig,
    q_function: QFunction,
    *,
    episodes: int,
    epsilon: float,
    lanes: int,
    seed: int,
    threads: int = 1,
    stop: Stop | None = None,
    on_games: OnGames | None = None,
) -> EpisodeResults:
    """Plays whole games (a lost life ends nothing) and returns the first `episodes` of them to start.

    Episodes are selected when they start, so short ones are not favoured. Equal arguments play equal episodes if
    `q_function` is deterministic.

    Args:
      epsilon: exploration.
      lanes: parallel environments, at most `episodes`.
      threads: EnvPool's.
      stop: checked before each step.
      on_games: called at the start, whenever counted episodes end, and every few hundred steps in between.
    Raises: UserError as `make_lanes` does.
    """
    lanes = min(lanes, episodes)
    rng, tracker = np.random.default_rng(seed), EpisodeTracker(lanes)
    returns, lengths = np.full(episodes, np.nan), np.zeros(episodes, np.int64)
    playing = np.full(lanes, episodes)  # which episode each lane plays; `episodes` and above do not count
    num_started = num_ended = num_steps = num_rounds = 0
    with make_lanes(env, lanes=lanes, recv_batch=lanes, seed=seed, threads=threads, training=False) as pool:
        while num_ended < episodes and not (stop and stop.is_set()):
            rows = pool.recv()
            num_steps += int(np.count_nonzero(~rows.first))
            before = num_ended
            for episode in tracker.update(rows):
                if (index := playing[episode.lane]) < episodes:
                    returns[index], lengths[index] = episode.raw_return, episode.length
                    playing[episode.lane], num_ended = episodes, num_ended + 1
            for lane in rows.lane[rows.first]:
                playing[lane] = num_started
                num_started += 1
            if on_games and (num_ended > before or num_rounds % _REPORT_STEPS == 0):
                mean = float(np.nanmean(returns)) if num_ended else None
                on_games(Games(num_ended, episodes, num_steps * pool.spec.frame_skip, mean))
            num_rounds += 1
            action = np.zeros(lanes, np.int64)
            counted = np.flatnonzero(playing[rows.lane] < episodes)
            if len(counted):
                action[counted] = epsilon_greedy(q_function(rows.observation[counted]), epsilon, rng)
            pool.send(action, rows.lane)
    ended = ~np.isnan(returns)
    return EpisodeResults(returns[ended], lengths[ended], complete=bool(ended.all()))


def collect_chunks(
    env: EnvConfig,
    q_function: QFunction,
    spec: ChunkSpec,
    *,
    frames: int,
    epsilons: Sequence[float],
    lanes: int,
    seed: int,
    threads: int = 1,
    stop: Stop | None = None,
) -> Iterator[Chunk]:
    """Plays under the training protocol until at least `frames` environment frames are in the chunks it yields.

    Args:
      epsilons: exploration, assigned to the lanes in turn.
      threads: EnvPool's.
      stop: checked before each step; transitions played by then are still yielded.
    Raises: UserError as `make_lanes` does.
    """
    rng, writer = np.random.default_rng(seed), ChunkWriter(spec, lanes)
    lane_epsilons = np.resize(np.asarray(epsilons, np.float64), lanes)
    num_steps = 0
    with make_lanes(env, lanes=lanes, recv_batch=lanes, seed=seed, threads=threads, training=True) as pool:
        while num_steps * pool.spec.frame_skip < frames and not (stop and stop.is_set()):
            rows = pool.recv()
            num_steps += int(np.count_nonzero(~rows.first))
            action = epsilon_greedy(q_function(rows.observation), lane_epsilons[rows.lane], rng)
            yield from writer.push(rows, action)
            pool.send(action, rows.lane)
    yield from writer.flush()


def random_score(env: EnvConfig, episodes: int, seed: int, *, lanes: int = 8, on_games: OnGames | None = None) -> float:
    """Mean raw return of `episodes` whole games with uniform random actions."""
    num_actions = env_spec(env).num_actions

    def indifferent(observation: Array) -> Array:
        return np.zeros((len(observation), num_actions), np.float32)

    results = play_episodes(env, indifferent, episodes=episodes, epsilon=1.0, lanes=lanes, seed=seed, on_games=on_games)
    return results.mean_return
