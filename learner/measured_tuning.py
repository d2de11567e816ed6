"""Measures the fastest way to compute here: learner steps on random batches, about a second for each way."""

import statistics
import time
from typing import Final

import numpy as np
import structlog
import torch

from learner.batches import Batch, FrameBuffers
from learner.objective import Objective
from learner.ranks import Ranks
from learner.train_state import TrainState
from learner.train_step import train_step
from learner.tuning import Tuning, candidates
from replay_service.table.types import SampledBatch, TransitionKeys
from upcycle.config.run import RunConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View, Windows
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import Record, RunFolder

_log = structlog.get_logger(__name__)

_WARM_UP_STEPS: Final = 2
_ROUNDS: Final = 3
_SECONDS: Final = 0.3  # of a round


def tune(
    config: RunConfig, spec: ChunkSpec, folder: RunFolder, device: torch.device, ranks: Ranks, cores: int
) -> Tuning:
    """The way this run's learner computes: the one kept in the run folder, or the fastest one measured now.

    Another way would round differently, so a resumed run keeps the choice. All ranks use rank 0's.
    """
    ways = candidates(config.learner, device, cores=cores)
    choice = 0
    if ranks.is_first and len(ways) > 1:
        kept = folder.tuning()
        if kept is None or Tuning(**kept["chosen"]) not in ways:
            kept = _measured(
                measure(config, spec, device, ways, batch_size=ranks.rows_per_rank(config.learner.batch_size))
            )
            folder.write_tuning(kept)
            _log.info("tuned", **kept)
        choice = ways.index(Tuning(**kept["chosen"]))
    return ways[ranks.broadcast(choice)]


def measure(
    config: RunConfig, spec: ChunkSpec, device: torch.device, ways: list[Tuning], *, batch_size: int
) -> dict[Tuning, float]:
    """Seconds of a learner step of the run's network, the median of three rounds, for each way."""
    view = View.of_run(config, spec)
    batch = random_batch(spec, view, batch_size, device)
    objective = Objective.of_phase(config, config.phases[0], None)
    before = torch.get_num_threads()
    seconds = dict[Tuning, float]()
    try:
        for way in ways:
            if way.threads:
                torch.set_num_threads(way.threads)
            with torch.random.fork_rng():  # drawing trial weights must not advance the global generator
                network = build_network(
                    config.network, frame_shape=spec.frame_shape, stack=view.stack, num_actions=spec.num_actions
                )
                frozen = config.encoder.frozen
                state = TrainState(network, config.learner, device, tuning=way, frozen_torso=frozen)
                seconds[way] = _seconds_per_step(state, batch, objective)
    finally:
        torch.set_num_threads(before)
    return seconds


def _measured(seconds: dict[Tuning, float]) -> Record:
    return {
        "chosen": min(seconds, key=lambda way: seconds[way]).to_json(),
        "milliseconds": {way.describe(): round(1000 * value, 3) for way, value in seconds.items()},
    }


def random_batch(spec: ChunkSpec, view: View, batch_size: int, device: torch.device, *, seed: int = 0) -> Batch:
    """A batch of noise with the shapes of replay's batches."""
    rng, index = np.random.default_rng(seed), np.arange(batch_size)
    shape = (batch_size, view.stack + view.n_step, *spec.frame_shape)
    frames = rng.integers(0, 256, shape, np.uint8) if spec.frame_dtype == "uint8" else rng.normal(size=shape)
    windows = Windows(
        frames=frames.astype(spec.frame_dtype, copy=False),
        action=rng.integers(0, spec.num_actions, batch_size),
        n_step_return=rng.normal(size=batch_size).astype(np.float32),
        discount=np.full(batch_size, view.gamma**view.n_step, np.float32),
    )
    sampled = SampledBatch(
        windows=windows,
        keys=TransitionKeys(index, index, index, index),
        probabilities=np.full(batch_size, 1.0 / batch_size),
        importance_weights=np.ones(batch_size, np.float32),
        largest_weight=1.0,
        policy_version=index,
    )
    return FrameBuffers(device).to_batch(sampled, view).await_copy()


def _seconds_per_step(state: TrainState, batch: Batch, objective: Objective) -> float:
    def step() -> None:
        train_step(state, batch, objective, multiplier=0.0)

    def finish() -> None:
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)

    for _ in range(_WARM_UP_STEPS):
        step()
    finish()
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        started, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - started < _SECONDS:
            step()
            steps += 1
        finish()
        rounds.append((time.perf_counter() - started) / steps)
    return statistics.median(rounds)
