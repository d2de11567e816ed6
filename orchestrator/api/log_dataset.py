"""An experience log as a PyTorch dataset."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from orchestrator.api.batch import Batch


class ReadPart(Protocol):
    """What is left to say of `ExperienceLog.batches`."""

    def __call__(self, *, shuffle_seed: int | None, part: int, num_parts: int) -> Iterator[Batch]:
        """Reads one of several disjoint parts of a log."""
        ...


class LogDataset(IterableDataset[dict[str, Tensor]]):
    """One pass over a log for each iteration, as dictionaries of tensors. `ExperienceLog.dataset` makes it.

    In a DataLoader with workers each of them reads its own part.
    """

    def __init__(self, read: ReadPart, *, shuffle_seed: int | None) -> None:
        super().__init__()
        self._read, self._shuffle_seed, self._num_passes = read, shuffle_seed, 0

    @override
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker, seed = get_worker_info(), None
        part, num_parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self._shuffle_seed is not None:
            # The workers of a pass are new processes: only what their loader seeds them with tells passes apart.
            salt = self._num_passes if worker is None else worker.seed - worker.id
            seed = int(np.random.SeedSequence([self._shuffle_seed, salt]).generate_state(1)[0])
        self._num_passes += 1
        for batch in self._read(shuffle_seed=seed, part=part, num_parts=num_parts):
            yield {
                field.name: torch.from_numpy(np.ascontiguousarray(getattr(batch, field.name)))
                for field in fields(Batch)
            }
