"""An experience log as NumPy columns, as batches of transitions, and as a dataset for PyTorch."""

from collections.abc import Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from orchestrator.api.batch import Batch, batch_of_windows
from orchestrator.api.teachers import open_store
from teacher_store.records.record import TeacherRecord
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import COLUMNS, Array, Chunk, ChunkSpec, decode_chunk
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.windows import View, gather_windows, valid_starts

if TYPE_CHECKING:  # with PyTorch, which NumPy users do without
    from orchestrator.api.log_dataset import LogDataset

_POOL: Final = 64
"""Chunks that are decoded together, and shuffled among each other."""


class ExperienceLog:
    """A log, or a folder of logs, as it was when it was opened. `open_log` makes it.

    Attributes:
      env: environment and protocol that it was played under.
      spec: form of its chunks: `spec.lookahead` is the largest n-step, `spec.history + 1` the largest stack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = ExperienceLogReader.open(path)
        self.env: EnvConfig = self._reader.env
        self.spec: ChunkSpec = self._reader.spec

    def __len__(self) -> int:
        """Transitions in the log."""
        return self._reader.num_transitions

    def columns(self, *, newest: int | None = None) -> dict[str, Array]:
        """Everything in memory: one row for each agent step, chunk by chunk, from the oldest on.

        Returns: `frame` [N, *frame_shape], the newest frame of the state, and `action`, `reward` (raw), `terminated`,
          `truncated`, `first`, `policy_version` [N].

        Args:
          newest: of the newest chunks alone that hold so many transitions; by default of all.
        """
        names = [name for name in COLUMNS if name != "priority"]
        parts = [self._usable(chunk, names) for chunk in self._chunks(0, 1, newest)]
        empty: dict[str, Array] = {"frame": np.zeros((0, *self.spec.frame_shape), self.spec.frame_dtype)}
        empty |= {name: np.zeros(0, COLUMNS[name]) for name in names}
        return {name: np.concatenate([none, *(part[name] for part in parts)]) for name, none in empty.items()}

    def batches(
        self,
        batch_size: int,
        *,
        n_step: int = 1,
        stack: int | None = None,
        gamma: float = 0.99,
        clip_rewards: bool | None = None,
        shuffle_seed: int | None = None,
        newest: int | None = None,
        part: int = 0,
        num_parts: int = 1,
    ) -> Iterator[Batch]:
        """One pass over the transitions, each once; the last batch may be smaller.

        Args:
          batch_size: transitions of a batch.
          n_step: horizon of the returns, up to `spec.lookahead`.
          stack: frames of an observation, up to `spec.history + 1`; by default the protocol's.
          gamma: discount of a step.
          clip_rewards: clip each reward to [-1, 1] before summing; by default as the protocol says.
          shuffle_seed: visit chunks in random order and shuffle the transitions of 64 chunks among each other; None
            keeps the log's order.
          newest: as in `columns`.
          part, num_parts: which of several disjoint parts of the log, for several readers.
        Raises: ValueError if the chunks do not reach that far; CorruptDataError naming file and offset.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: must be above 0")
        is_image = len(self.spec.frame_shape) > 1
        view = View(
            n_step=n_step,
            stack=stack if stack is not None else self.env.frame_stack if is_image else 1,
            gamma=gamma,
            clip_rewards=self.env.clip_rewards if clip_rewards is None else clip_rewards,
            stack_fill=self.env.stack_fill,
        )
        view.check(self.spec)
        rng = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, part])
        return self._batches(batch_size, view, self._chunks(part, num_parts, newest, rng), rng)

    def dataset(
        self,
        batch_size: int,
        *,
        n_step: int = 1,
        stack: int | None = None,
        gamma: float = 0.99,
        clip_rewards: bool | None = None,
        shuffle_seed: int | None = None,
        newest: int | None = None,
    ) -> "LogDataset":
        """`batches` as a `torch.utils.data.IterableDataset` of dictionaries of tensors, keyed as `Batch`.

        Give it to a `DataLoader(dataset, batch_size=None)`; with `num_workers` each worker reads its own part. With a
        shuffle seed each pass has another order. Arguments as of `batches`.
        """
        from orchestrator.api.log_dataset import LogDataset

        read = partial(
            self.batches, batch_size, n_step=n_step, stack=stack, gamma=gamma, clip_rewards=clip_rewards, newest=newest
        )
        return LogDataset(read, shuffle_seed=shuffle_seed)

    def _chunks(
        self, part: int, num_parts: int, newest: int | None, rng: np.random.Generator | None = None
    ) -> Iterator[Chunk]:
        selected = np.array(self._reader.select(part, num_parts, newest))
        for index in selected if rng is None else rng.permutation(selected):
            yield decode_chunk(self._reader.read(int(index)), self.spec)

    def _usable(self, chunk: Chunk, names: list[str]) -> dict[str, Array]:
        usable = slice(self.spec.history, self.spec.history + self.spec.steps)
        rows = chunk.columns["priority"][usable] > 0
        return {"frame": chunk.frame[usable][rows]} | {name: chunk.columns[name][usable][rows] for name in names}

    def _batches(
        self, batch_size: int, view: View, chunks: Iterator[Chunk], rng: np.random.Generator | None
    ) -> Iterator[Batch]:
        left: list[Batch] = []
        for pool in _pools(chunks):
            frame, columns, num_rows = _padded(pool, self.spec)
            slots, offsets = np.nonzero(valid_starts(self.spec, columns, num_rows, view.n_step))
            order = np.arange(len(slots)) if rng is None else rng.permutation(len(slots))
            taken = 0
            while taken < len(order):
                missing = batch_size - sum(len(batch.action) for batch in left)
                rows = order[taken : taken + missing]
                windows = gather_windows(self.spec, frame, columns, slots[rows], offsets[rows], view)
                left.append(batch_of_windows(windows, view))
                taken += len(rows)
                if len(rows) == missing:
                    yield _joined(left)
                    left = []
        if left:
            yield _joined(left)


def open_log(source: str | PathLike[str] | TeacherRecord, *, store: str | Path | None = None) -> ExperienceLog:
    """Opens an experience log.

    Args:
      source: a run, its folder or that of a log, or the record of a teacher that left a buffer.
      store: of the teacher; by default the one that the command line uses.
    Raises: UserError if there is none; CorruptDataError naming file and offset if it is damaged.
    """
    if isinstance(source, TeacherRecord):
        return ExperienceLog(open_store(store).log_directory(source))
    inner = Path(source) / "experience"
    return ExperienceLog(inner if inner.is_dir() else Path(source))


def _pools(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    pool: list[Chunk] = []
    for chunk in chunks:
        pool.append(chunk)
        if len(pool) == _POOL:
            yield pool
            pool = []
    if pool:
        yield pool


def _padded(pool: list[Chunk], spec: ChunkSpec) -> tuple[Array, dict[str, Array], Array]:
    """Frames [S, rows, ...], columns [S, rows] and the number of rows of S chunks, short ones padded with zeros."""
    frame = np.zeros((len(pool), spec.rows, *spec.frame_shape), spec.frame_dtype)
    columns = {name: np.zeros((len(pool), spec.rows), dtype) for name, dtype in COLUMNS.items()}
    for slot, chunk in enumerate(pool):
        frame[slot, : chunk.num_rows] = chunk.frame
        for name, column in columns.items():
            column[slot, : chunk.num_rows] = chunk.columns[name]
    return frame, columns, np.array([chunk.num_rows for chunk in pool])


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(
        observation=np.concatenate([batch.observation for batch in batches]),
        action=np.concatenate([batch.action for batch in batches]),
        n_step_return=np.concatenate([batch.n_step_return for batch in batches]),
        discount=np.concatenate([batch.discount for batch in batches]),
        next_observation=np.concatenate([batch.next_observation for batch in batches]),
    )
