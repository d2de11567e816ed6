"""One rank of two, in a process of its own: what it goes through, step by step, for `test_ranks`.

steps on its half of every batch --> one without a batch --> parameters go apart --> rank 1 dies
"""

import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.batches import FrameBuffers
from learner.objective import Objective
from learner.ranks import Agreement, Order, RankLost, Ranks, RanksDiffer, Verdict
from learner.rendezvous import meet
from learner.train_state import TrainState
from learner.train_step import train_step
from replay_service.table.types import SampledBatch, TransitionKeys
from upcycle.config.run import DistillationConfig, LearnerConfig, MarginConfig, NetworkConfig, TeacherConfig
from upcycle.experience.windows import View, Windows
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal

VIEW = View(n_step=3, stack=2)
BATCH_SIZE, STEPS, NUM_ACTIONS = 16, 5, 4
LEARNER = LearnerConfig(batch_size=BATCH_SIZE, double_q=True, learning_rate=1e-3, target_update_period=2)
OBJECTIVE = Objective(LEARNER, DistillationConfig(), MarginConfig(), None, TeacherConfig(), torch.ones(1))
MULTIPLIERS = (1.0, 0.7, 0.4, 0.1, 0.0)
ANSWER_SECONDS = 30.0

CONTINUE = Order(Verdict.CONTINUE, multiplier=0.5, learning_rate=1e-3)


def teacher(observation: Tensor) -> Tensor:
    """Values that differ between rows and actions, at a scale where the temperature matters."""
    mean = observation.float().mean(dim=(1, 2, 3)) / 255  # [B]
    return 0.3 * torch.sin(mean[:, None] * 40 + torch.arange(NUM_ACTIONS))


def train(ranks: Ranks, *, frozen_torso: bool = False) -> TrainState:
    """Takes STEPS steps on this rank's rows of the same batches, whoever shares them."""
    torch.manual_seed(ranks.rank)  # parameters become rank 0's
    config = NetworkConfig(kind="nature", width=0.25, hidden=16)
    network = build_network(config, frame_shape=(42, 42), stack=2, num_actions=NUM_ACTIONS)
    if ranks.rank:
        network.load_state_dict({name: tensor + 1 for name, tensor in network.state_dict().items()})
    state = TrainState(network, LEARNER, torch.device("cpu"), wrap=ranks.wrap, frozen_torso=frozen_torso)
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        sampled, raw = draw(rng)
        size = ranks.rows_per_rank(BATCH_SIZE)
        mine = slice(ranks.rank * size, (ranks.rank + 1) * size)
        largest = float(raw[mine].max())
        # Rank 0's multiplier and rate are to hold.
        order = Order(Verdict.CONTINUE, MULTIPLIERS[step] + ranks.rank, LEARNER.learning_rate * (1 + step + ranks.rank))
        agreement = ranks.agree(order, largest)
        assert agreement.step
        state.set_learning_rate(agreement.learning_rate)
        batch = FrameBuffers(state.device).to_batch(rows(sampled, raw, mine), VIEW).await_copy()
        train_step(
            state,
            replace(batch, importance_weights=batch.importance_weights * (largest / agreement.largest_weight)),
            OBJECTIVE,
            multiplier=agreement.multiplier,
            teacher_values=teacher(batch.observation).unsqueeze(1),
        )
    return state


def draw(rng: np.random.Generator) -> tuple[SampledBatch, np.ndarray[Any, np.dtype[np.float64]]]:
    """A whole batch, and its raw importance weights: the largest of either half differ by a factor."""
    index = np.arange(BATCH_SIZE)
    windows = Windows(
        frames=rng.integers(0, 256, (BATCH_SIZE, VIEW.stack + VIEW.n_step, 42, 42), np.uint8),
        action=rng.integers(0, NUM_ACTIONS, BATCH_SIZE),
        n_step_return=rng.normal(size=BATCH_SIZE).astype(np.float32),
        discount=np.full(BATCH_SIZE, 0.97, np.float32),
    )
    raw = rng.uniform(0.1, 1.0, BATCH_SIZE) * np.where(index < BATCH_SIZE // 2, 1.0, 5.0)
    keys = TransitionKeys(index, index, index, index)
    return SampledBatch(windows, keys, 1 / raw, (raw / raw.max()).astype(np.float32), index), raw


def rows(sampled: SampledBatch, raw: np.ndarray[Any, np.dtype[np.float64]], mine: slice) -> SampledBatch:
    """A rank's rows as replay gives them: their weights are divided by their own largest."""
    windows = sampled.windows
    part = Windows(
        frames=windows.frames[mine],
        action=windows.action[mine],
        n_step_return=windows.n_step_return[mine],
        discount=windows.discount[mine],
    )
    weights = (raw[mine] / raw[mine].max()).astype(np.float32)
    return replace(sampled, windows=part, importance_weights=weights)


def main(rank: int, path: Path) -> None:
    """Goes through it all and leaves `rank-<rank>.pt` in `path`."""
    torch.set_num_threads(1)
    results = dict[str, Any]()
    with (
        noting_loss(results),
        meet(
            RunFolder(path),
            rank=rank,
            size=2,
            host=socket.gethostbyname("localhost"),
            device=torch.device("cpu"),
            stop=StopSignal(),
            answer_seconds=ANSWER_SECONDS,
        ) as ranks,
    ):
        state = train(ranks)
        results["parameters"] = [parameter.detach().clone() for parameter in state.online_network.parameters()]
        frozen = train(ranks, frozen_torso=True)
        results["frozen"] = [parameter.detach().clone() for parameter in frozen.online_network.parameters()]
        ranks.check_equal([*state.online_network.parameters(), *state.target_network.parameters()])
        results["agreements"] = [plain(agreement) for agreement in disagreeing(ranks)]
        if rank == 0:
            time.sleep(0.3)
            (path / "late").touch()
        ranks.barrier()
        results["waited"] = (path / "late").exists()
        results["from_first"] = ranks.broadcast(40 + rank)
        results["gathered"] = [int(tensor) for tensor in ranks.gather(torch.tensor(7 + rank))]
        with torch.no_grad():
            next(iter(state.online_network.parameters())).view(-1)[3] += rank * 1e-7
        try:
            ranks.check_equal(state.online_network.parameters())
        except RanksDiffer as error:
            results["differ"] = str(error)
        if rank == 1:
            torch.save(results, path / f"rank-{rank}.pt")
            wait_until(lambda: (path / "waiting").exists())  # what was sent before may be lost with the connection
            os._exit(9)  # as the kernel would end it: nothing is said, nothing is closed in order
        (path / "waiting").touch()
        ranks.agree(CONTINUE, 1.0)
    torch.save(results, path / f"rank-{rank}.pt")


@contextmanager
def noting_loss(results: dict[str, Any]) -> Generator[None]:
    """Keeps what a rank says that has lost another."""
    try:
        yield
    except RankLost as error:
        results["lost"] = str(error)


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises TimeoutError when `condition` does not become true in time."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def disagreeing(ranks: Ranks) -> list[Agreement]:
    """Agreements on what the ranks do not see alike."""
    first = ranks.is_first
    stop, end = replace(CONTINUE, verdict=Verdict.STOP), replace(CONTINUE, verdict=Verdict.END_PHASE)
    return [
        ranks.agree(CONTINUE, 1.0 if first else None),  # somebody has no batch
        ranks.agree(replace(CONTINUE, checkpoint=True) if first else CONTINUE, 2.0 if first else 3.0),
        ranks.agree(end if first else CONTINUE, 1.0),
        ranks.agree(CONTINUE if first else replace(end, checkpoint=True), 1.0),  # not for rank 1 to say
        ranks.agree(CONTINUE if first else stop, 1.0),
        ranks.agree(end if first else stop, None),
        ranks.agree(stop if first else replace(CONTINUE, verdict=Verdict.ROLL_BACK, checkpoint=True), 1.0),
    ]


def plain(agreement: Agreement) -> tuple[str, bool, bool, float]:
    """What a file can keep of it."""
    return agreement.verdict.name, agreement.step, agreement.checkpoint, agreement.largest_weight
