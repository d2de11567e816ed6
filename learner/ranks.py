"""The ranks of a learner: processes that share every batch and keep the same parameters. Owner of torch.distributed.

    rank 0: store on a free port -> endpoint in the run folder <- ranks 1, 2, ...        (`meet`)
    every learner step:  agree (gloo, host) -> forward, backward (gradients averaged) -> optimizer

Before each step all ranks agree, in one collective, on what rank 0 orders, on whether everybody has a batch and on the
largest raw importance weight: either all take the step, alike, or none does. Each rank's loss is the mean over its own
rows and DistributedDataParallel averages the gradients, so equal shares give the mean over the whole batch. Every
collective has a deadline: a rank that is gone makes the others raise, never wait for ever.

With one rank nothing here costs anything: no process group, no copy, no collective. The loop reads the same:

    agreement = ranks.agree(order, batch.largest_weight if batch is not None else None)
    if agreement.verdict is not Verdict.GO_ON: leave the phase, on every rank
    if agreement.step: train_step(..., multiplier=agreement.multiplier), with importance weights times
        batch.largest_weight / agreement.largest_weight
    if agreement.checkpoint: ranks.check_equal(...), ranks.gather(...); rank 0 writes
"""

import math
import os
import re
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final, Self, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel
from zlib_ng import zlib_ng

from upcycle.errors import UpcycleError
from upcycle.run_folder import RunFolder
from upcycle.runtime import StopSignal

MEET_SECONDS: Final = 300.0
"""Longest wait for the other ranks to come up: they import, and wait for the shards, on loaded machines."""
_POLL_SECONDS: Final = 0.1
_CONNECT_SECONDS: Final = 10.0
_ARRIVED: Final = "arrived"
_NOISE: Final = re.compile(r"^\[\S+\] |\. This is typically.*")  # gloo's line of source before, its advice after


class RankLost(UpcycleError):
    """Another rank is gone, or has not answered in time. Nothing can go on without it: all are to be restarted."""


class RanksDiffer(UpcycleError):
    """The ranks no longer have the same parameters: a defect, or a machine that computes wrongly."""


class Verdict(IntEnum):
    """What is to happen now. Of several the greatest holds."""

    GO_ON = 0
    END_PHASE = 1
    STOP = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What a rank wants to happen before the next learner step; rank 0's holds, of the others a wish to stop alone.

    Attributes:
      multiplier: of the terms that imitate, in force for this step.
      learning_rate: for this step.
      checkpoint: whether a checkpoint follows, with or without a step before it; all ranks take part in it.
    """

    verdict: Verdict
    multiplier: float
    learning_rate: float
    checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class Agreement(Order):
    """What all ranks do now, the same on each.

    Attributes:
      step: all have a batch and go on. If False nobody takes a step, and who has a batch keeps it.
      largest_weight: largest raw importance weight of the whole batch; 1 where there is no step.
    """

    step: bool = False
    largest_weight: float = 1.0


class Ranks:
    """One process's place among the ranks. A context manager: leaving it leaves the group.

    Attributes:
      rank: 0 <= rank < size. Rank 0 alone writes files, reads scores and says what is to happen.
      size: how many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def single(cls) -> Self:
        """The only rank: no process group, every method answers at once."""
        return cls(0, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Rows that each rank draws of a batch. Raises ValueError if they cannot share it equally."""
        if batch_size % self.size:
            raise ValueError(f"{self.size} ranks cannot share {batch_size} rows equally")
        return batch_size // self.size

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose backward pass averages the gradients over all ranks; the module itself for one rank.

        Its parameters are overwritten by rank 0's. Call the result where gradients are wanted, and there alone: every
        forward pass with gradients is to be followed by one backward pass that reaches all parameters. Everything else
        (state_dict, optimizer, passes without gradients) goes on with `module`, whose parameters it shares. Buffers
        are left alone.
        """
        if self.size == 1:
            return module
        with _together(self.rank, self.size):
            return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def agree(self, order: Order, largest_weight: float | None) -> Agreement:
        """What all ranks do now; every rank calls it once before each step.

        Args:
          order: rank 0's holds; of the others' only Verdict.STOP counts, which stops all.
          largest_weight: largest raw importance weight of this rank's rows; None if it has no batch.
        Raises: RankLost.
        """
        here = largest_weight is not None
        if self.size == 1:
            return _agreement(order, step=here, largest_weight=largest_weight or 1.0)
        if not self.is_first:
            verdict = order.verdict if order.verdict is Verdict.STOP else Verdict.GO_ON
            order = Order(verdict, multiplier=-math.inf, learning_rate=-math.inf, checkpoint=False)
        mine = [
            float(order.verdict),
            order.multiplier,
            order.learning_rate,
            float(order.checkpoint),
            float(not here),
            largest_weight if largest_weight is not None else -math.inf,
        ]
        verdict, multiplier, rate, checkpoint, missing, largest = self._greatest(mine, torch.float64)
        order = Order(Verdict(int(verdict)), multiplier, rate, checkpoint > 0)
        return _agreement(order, step=not missing, largest_weight=largest if not missing else 1.0)

    def from_first(self, number: int) -> int:
        """Rank 0's number, which all ranks get: which checkpoint to go on from, for example. Raises: RankLost."""
        if self.size == 1:
            return number
        tensor = torch.tensor([number], dtype=torch.int64)
        with _together(self.rank, self.size):
            dist.broadcast(tensor, src=0)
        return int(tensor.item())

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, by rank: states of random generators, for a checkpoint. Raises: RankLost.

        Args:
          tensor: on the host; shape and dtype are the same on all ranks.
        """
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _together(self.rank, self.size):
            dist.all_gather(tensors, tensor.contiguous())
        return tensors

    def check_equal(self, tensors: Iterable[Tensor]) -> None:
        """Compares the bits of the ranks' tensors by a checksum; a copy of them goes to the host.

        Raises: RanksDiffer on every rank if they are not the same; RankLost.
        """
        if self.size == 1:
            return
        checksum = 0
        for tensor in tensors:
            array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            checksum = zlib_ng.crc32(array, checksum)
        greatest, least = self._greatest([checksum, -checksum], torch.int64)
        if greatest != -least:
            raise RanksDiffer(f"rank {self.rank} of {self.size}: parameters differ between the ranks")

    def _greatest(self, values: list[float], dtype: torch.dtype) -> list[float]:
        tensor = torch.tensor(values, dtype=dtype)
        with _together(self.rank, self.size):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return cast(list[float], tensor.tolist())


def meet(
    folder: RunFolder,
    *,
    rank: int,
    size: int,
    host: str,
    device: torch.device,
    stop: StopSignal,
    answer_seconds: float,
    meet_seconds: float = MEET_SECONDS,
) -> Ranks:
    """Joins the ranks of a run's learner; returns when all are there.

    Rank 0 announces itself as endpoint "learner" 0 of the run folder, where an announcement of an earlier group must
    have been withdrawn before the ranks are started.

    Args:
      host: address of this machine that the other ranks can reach.
      device: where the parameters are: their gradients travel over NCCL on CUDA, over gloo on the host.
      answer_seconds: deadline of every later collective.
    Raises: RankLost if not all have come in time, or `stop` was set meanwhile.
    """
    if size == 1:
        return Ranks.single()
    _use_interface_of(host)
    deadline = time.monotonic() + meet_seconds
    store = _serve(folder, host) if rank == 0 else _connect(folder, rank, deadline, stop)
    arrived = store.add(_ARRIVED, 1)
    while arrived < size:
        _wait(stop, deadline, f"rank {rank}: {arrived} of {size} ranks have come")
        with _together(rank, size):
            arrived = store.add(_ARRIVED, 0)
    store.set_timeout(timedelta(seconds=answer_seconds))
    with _together(rank, size):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=answer_seconds),
        )
    return Ranks(rank, size)


def _serve(folder: RunFolder, host: str) -> TCPStore:
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    folder.announce_endpoint("learner", 0, f"{host}:{store.port}")
    return store


def _connect(folder: RunFolder, rank: int, deadline: float, stop: StopSignal) -> TCPStore:
    while True:
        if address := folder.endpoints("learner").get(0):
            host, _, port = address.rpartition(":")
            try:
                return TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=_CONNECT_SECONDS))
            except RuntimeError:
                pass  # rank 0 has gone, or has not quite come; the deadline ends it
        _wait(stop, deadline, f"rank {rank}: rank 0 has not announced itself")


def _wait(stop: StopSignal, deadline: float, what: str) -> None:
    if stop.wait(_POLL_SECONDS):
        raise RankLost(f"{what}, and the run was stopped")
    if time.monotonic() > deadline:
        raise RankLost(f"{what} in time")


def _use_interface_of(host: str) -> None:
    """Has gloo and NCCL listen where the other ranks look for this machine; by themselves they ask its name."""
    same = "127.0.0.1" if host.startswith("127.") else host
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == same for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


@contextmanager
def _together(rank: int, size: int) -> Generator[None]:
    """Raises RankLost for what torch.distributed raises at a closed connection or a missed deadline."""
    try:
        yield
    except RuntimeError as error:
        reason = _NOISE.sub("", str(error).strip().splitlines()[0])
        raise RankLost(f"rank {rank} of {size} has lost another rank ({reason})") from error


def _agreement(order: Order, *, step: bool, largest_weight: float) -> Agreement:
    go_on = order.verdict is Verdict.GO_ON
    return Agreement(
        order.verdict,
        order.multiplier,
        order.learning_rate,
        order.checkpoint,
        step=step and go_on,
        largest_weight=largest_weight,
    )
