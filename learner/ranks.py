"""The ranks of a learner: processes that share every batch and keep the same parameters. Only this module and
`learner.rendezvous` use torch.distributed.

    learner.rendezvous.meet --> every learner step: agree (gloo, host) --> forward, backward (gradients averaged)

Before each step one collective settles what rank 0 orders, whether every rank has a batch, and the largest raw
importance weight: either all ranks take the same step or none does. Each rank's loss is the mean over its own rows and
DistributedDataParallel averages the gradients, so equal shares give the mean over the whole batch. Every collective has
a deadline, so the loss of one rank raises on the others instead of blocking them.

A single rank costs nothing: no process group, no copy, no collective. The loop reads the same:

    agreement = ranks.agree(order, batch.largest_weight if batch is not None else None)
    if agreement.verdict is not Verdict.CONTINUE: leave the phase on every rank
    if agreement.step: train_step(..., multiplier=agreement.multiplier), with importance weights times
        batch.largest_weight / agreement.largest_weight
    if agreement.checkpoint: ranks.check_equal(...), ranks.gather(...); rank 0 writes
"""

import math
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel
from zlib_ng import zlib_ng

from upcycle.errors import UpcycleError
from upcycle.runs.runtime import StopSignal

_PATIENCE_SECONDS: Final = 3600.0  # how long the first rank at a barrier waits for the last one
_POLL_SECONDS: Final = 0.1
_LEAVE_SECONDS: Final = 5.0
_NOISE: Final = re.compile(r"^\[\S+\] |\. This is typically.*")  # gloo's line of source before, its advice after
_CONNECTION: Final = re.compile("gloo|NCCL")  # a backward pass raises a RuntimeError for whatever goes wrong in it


class RankLost(UpcycleError):
    """Another rank is gone, or has not answered in time. All ranks must be restarted."""


class RanksDiffer(UpcycleError):
    """The ranks no longer have the same parameters: a bug, or a machine that computes wrongly."""


class Verdict(IntEnum):
    """What happens next. Of the ranks' verdicts the greatest holds."""

    CONTINUE = 0
    END_PHASE = 1
    STOP = 2
    ROLL_BACK = 3  # to the newest checkpoint: a value is not finite


@dataclass(frozen=True, slots=True)
class Order:
    """What a rank wants to happen next. Rank 0 decides; the others can only stop the run or roll it back.

    Attributes:
      multiplier: of the imitation terms, for this step.
      learning_rate: for this step.
      checkpoint: write a checkpoint, whether or not a step comes first; all ranks take part in it.
    """

    verdict: Verdict
    multiplier: float
    learning_rate: float
    checkpoint: bool = False


@dataclass(frozen=True, slots=True)
class Agreement(Order):
    """What all ranks do next, the same on each.

    Attributes:
      step: all ranks have a batch and continue. If False no rank steps, and batches are kept.
      largest_weight: largest raw importance weight of the whole batch; 1 without a step.
    """

    step: bool = False
    largest_weight: float = 1.0


class Ranks:
    """This process's membership of the process group. A context manager: leaving it leaves the group.

    Attributes:
      rank: 0 <= rank < size. Only rank 0 writes files, reads scores and gives orders.
      size: number of ranks.
    """

    def __init__(self, rank: int, size: int, store: TCPStore | None = None, stop: StopSignal | None = None) -> None:
        self.rank, self.size = rank, size
        self._store, self._stop, self._waits = store, stop or StopSignal(), 0

    @classmethod
    def single(cls) -> Self:
        """The only rank: no process group, every method returns at once."""
        return cls(0, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.size == 1:
            return
        if kind is None:
            self._leave_together()
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def rows_per_rank(self, batch_size: int) -> int:
        """Rows of a batch that each rank draws. Raises: ValueError if the ranks cannot share it equally."""
        if batch_size % self.size:
            raise ValueError(f"{self.size} ranks cannot share {batch_size} rows equally")
        return batch_size // self.size

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose backward pass averages the gradients over all ranks; the module itself for one rank.

        Its parameters are overwritten by rank 0's. Call the result only where gradients are needed: every forward pass
        with gradients must be followed by one backward pass that reaches all parameters. Everything else (state_dict,
        optimizer, passes without gradients) uses `module`, whose parameters it shares. Buffers are not synchronised.
        """
        if self.size == 1:
            return module
        with collective(self.rank, self.size), warnings.catch_warnings():
            # Buffers are constants here. Newer releases rename this argument; older ones lack the new name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    @contextmanager
    def averaging(self) -> Generator[None]:
        """Wraps the backward pass of a wrapped module. Raises: RankLost if another rank is lost in it."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _CONNECTION.search(str(error)):
                raise
            raise _lost(self.rank, self.size, error) from error

    def agree(self, order: Order, largest_weight: float | None) -> Agreement:
        """What all ranks do next; every rank calls it once before each step.

        Args:
          order: rank 0's decides; of the others' only Verdict.STOP and Verdict.ROLL_BACK count.
          largest_weight: largest raw importance weight of this rank's rows; None without a batch.
        Raises: RankLost.
        """
        here = largest_weight is not None
        if self.size == 1:
            return _agreement(order, step=here, largest_weight=largest_weight or 1.0)
        if not self.is_first:
            verdict = order.verdict if order.verdict >= Verdict.STOP else Verdict.CONTINUE
            order = Order(verdict, multiplier=-math.inf, learning_rate=-math.inf, checkpoint=False)
        mine = [
            float(order.verdict),
            order.multiplier,
            order.learning_rate,
            float(order.checkpoint),
            float(not here),
            largest_weight if largest_weight is not None else -math.inf,
        ]
        verdict, multiplier, rate, checkpoint, missing, largest = self._all_max(mine, torch.float64)
        order = Order(Verdict(int(verdict)), multiplier, rate, checkpoint > 0)
        return _agreement(order, step=not missing, largest_weight=largest if not missing else 1.0)

    def barrier(self) -> None:
        """Waits until all ranks are here or the run is stopped; for work that takes some ranks much longer than others.

        It does not notice a rank that dies; the driver then restarts all ranks.
        Raises: RankLost after an hour.
        """
        if self.size > 1:
            store, key = self._next_key()
            store.add(key, 1)
            self._poll(lambda: store.add(key, 0) == self.size)

    def broadcast(self, number: int) -> int:
        """Rank 0's number on every rank, waiting as long as `barrier`: the checkpoint to resume from, for example.

        Raises: RankLost, also if the run is stopped before rank 0 has sent it.
        """
        if self.size == 1:
            return number
        store, key = self._next_key()
        if self.is_first:
            store.set(key, str(number))
            return number
        self._poll(lambda: store.check([key]))
        if self._stop.is_set():
            raise RankLost(f"rank {self.rank} of {self.size} was stopped before rank 0 said how to continue")
        return int(store.get(key))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, by rank. Raises: RankLost.

        Args:
          tensor: on the host; shape and dtype are the same on all ranks.
        """
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with collective(self.rank, self.size):
            dist.all_gather(tensors, tensor.contiguous())
        return tensors

    def check_equal(self, tensors: Iterable[Tensor]) -> None:
        """Compares the bits of the ranks' tensors by checksum; copies them to the host.

        Raises: RanksDiffer on every rank if they are not the same; RankLost.
        """
        if self.size == 1:
            return
        checksum = 0
        for tensor in tensors:
            array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            checksum = zlib_ng.crc32(array, checksum)
        greatest, least = self._all_max([checksum, -checksum], torch.int64)
        if greatest != -least:
            raise RanksDiffer(f"rank {self.rank} of {self.size}: parameters differ between the ranks")

    def _next_key(self) -> tuple[TCPStore, str]:
        assert self._store is not None, "several ranks without a store"
        self._waits += 1
        return self._store, f"wait-{self._waits}"

    def _poll(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with collective(self.rank, self.size):
            while not condition() and not self._stop.wait(_POLL_SECONDS):
                if time.monotonic() > deadline:
                    raise RankLost(f"rank {self.rank} of {self.size} timed out waiting for another rank")

    def _leave_together(self) -> None:
        """Waits until all ranks have finished their last collective: leaving earlier would break it for the others.

        Rank 0 holds the store, so it leaves last.
        """
        store, key = self._next_key()
        deadline = time.monotonic() + _LEAVE_SECONDS
        with suppress(RuntimeError):  # a rank died at the very end, which the driver sees
            store.add(key, 1)
            while store.add(key, 0) < self.size and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            store.add(f"{key}-left", 1)
            while self.is_first and store.add(f"{key}-left", 0) < self.size and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _all_max(self, values: list[float], dtype: torch.dtype) -> list[float]:
        tensor = torch.tensor(values, dtype=dtype)
        with collective(self.rank, self.size):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return cast(list[float], tensor.tolist())


@contextmanager
def collective(rank: int, size: int) -> Generator[None]:
    """Raises RankLost for what torch.distributed raises at a closed connection or a missed deadline."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(rank, size, error) from error


def _lost(rank: int, size: int, error: RuntimeError) -> RankLost:
    reason = _NOISE.sub("", str(error).strip().splitlines()[0])
    return RankLost(f"rank {rank} of {size} has lost another rank ({reason})")


def _agreement(order: Order, *, step: bool, largest_weight: float) -> Agreement:
    continues = order.verdict is Verdict.CONTINUE
    return Agreement(
        order.verdict,
        order.multiplier,
        order.learning_rate,
        order.checkpoint,
        step=step and continues,
        largest_weight=largest_weight,
    )
