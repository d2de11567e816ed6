"""Mixtures: batches that hold exact shares of several tables, drawn in one call."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from replay_service.admission import SampleAdmission, Shards
from replay_service.allocation import mixture_counts
from replay_service.batch_filling import Allocate, BatchFilling
from replay_service.drawing import BatchDrawer, annotation_width
from replay_service.types import SampledBatch, TransitionKeys
from upcycle.chunks import Array, ChunkSpec
from upcycle.errors import UserError
from upcycle.windows import View, Windows

_TOLERANCE = 1e-6


class MixtureSampler:
    """Draws batches from several tables, each with its own sampler and limiter. Thread-safe.

    How many rows of a batch each table gives is settled before anything is asked for. A call that timed out hands its
    counts on to the next one like it, so that counts which the limiters find easier are not preferred.
    """

    def __init__(
        self, admission: SampleAdmission, drawer: BatchDrawer, spec: ChunkSpec, *, rng: np.random.Generator
    ) -> None:
        self._admission, self._drawer, self._spec, self._rng = admission, drawer, spec, rng
        self._lock = threading.Lock()  # guards rng and the one below
        self._unused: tuple[object, Array] | None = None

    def sample(
        self,
        shares: Mapping[str, float],
        batch_size: int,
        num_batches: int,
        *,
        view: View,
        importance_sampling_exponent: float,
        timeout_seconds: float,
        allocate: Allocate,
    ) -> list[SampledBatch]:
        """See `ShardedReplay.sample_mixture`."""
        view.check(self._spec)
        if min(batch_size, num_batches) < 1:
            raise ValueError(f"{num_batches} batches of {batch_size}: both must be above 0")
        parts = checked_shares(shares)
        tables = tuple(shares)
        wanted_batches = (tables, tuple(parts), batch_size, num_batches)
        with self._lock:
            if self._unused is not None and self._unused[0] == wanted_batches:
                counts = self._unused[1]
            else:
                counts = mixture_counts(np.array(parts), batch_size, num_batches, self._rng)
            self._unused = None
        totals = dict(zip(tables, counts.sum(axis=0).tolist(), strict=True))
        is_used = False

        def draw(shards: Mapping[str, Shards]) -> list[SampledBatch] | None:
            return self._draw(tables, parts, counts, shards, view, importance_sampling_exponent, allocate)

        try:
            batches = self._admission.draw_when_admitted(
                {table: total for table, total in totals.items() if total},
                draw,
                n_step=view.n_step,
                timeout_seconds=timeout_seconds,
            )
            is_used = True
            return batches
        finally:
            if not is_used:
                with self._lock:
                    self._unused = (wanted_batches, counts)

    def _draw(
        self,
        tables: Sequence[str],
        parts: Sequence[float],
        counts: Array,
        shards: Mapping[str, Shards],
        view: View,
        exponent: float,
        allocate: Allocate,
    ) -> list[SampledBatch] | None:
        """Draws counts[b, k] transitions of table k for batch b. None if some table has nothing to give.

        The frames of all tables are copied into the one array of their batch, each table's behind those of the one
        before.
        """
        spec = self._spec
        batch_size, ends = int(counts[0].sum()), np.cumsum(counts, axis=1)
        widths = {table: annotation_width(table, known) for table, known in shards.items()}
        width = _common_width(widths)
        shape = (batch_size, view.stack + view.n_step, *spec.frame_shape)
        frames = [allocate(shape, spec.frame_dtype) for _ in counts]
        drawn: list[list[_Part]] = [[] for _ in counts]
        for number, table in enumerate(tables):
            if table not in shards:  # gives nothing to any of these batches
                continue
            fillings = [
                BatchFilling(count, spec, view, _rows_of(whole, end - count), annotation_width=widths[table])
                for whole, count, end in zip(frames, counts[:, number].tolist(), ends[:, number].tolist(), strict=True)
            ]
            filled = self._drawer.fill(table, fillings, shards=shards[table], view=view)
            if filled is None:
                return None
            share, num_items = filled
            for batch, filling in zip(drawn, fillings, strict=True):
                sampled = filling.finish(share, num_items, exponent)
                batch.append((number, sampled, (num_items * sampled.probabilities) ** -exponent))
        return [_joined(tables, parts, batch, whole, width) for batch, whole in zip(drawn, frames, strict=True)]


_Part = tuple[int, SampledBatch, Array]
"""The number of a table, its rows of a batch, and their importance weights before they are normalised."""


def checked_shares(shares: Mapping[str, float]) -> list[float]:
    """The shares in order, summing to 1. Raises: UserError if they do not, by more than rounding."""
    total = math.fsum(shares.values())
    if not all(0 <= share <= 1 for share in shares.values()) or not abs(total - 1) <= _TOLERANCE:
        raise UserError(
            "shares", dict(shares), f"sum to {total:g}", "give each table a share in [0, 1], which sum to 1"
        )
    return [share / total for share in shares.values()]


def _common_width(widths: Mapping[str, int]) -> int:
    """Floats of an annotation in a batch of these tables; 0 if none of them has any."""
    distinct = sorted({width for width in widths.values() if width})
    if len(distinct) > 1:
        raise UserError(
            "annotation_width", dict(widths), "differs between the tables of a mixture", "give all of them the same"
        )
    return distinct[0] if distinct else 0


def _rows_of(frames: Array, begin: int) -> Allocate:
    """Gives the rows of `frames` from `begin` on."""

    def allocate(shape: tuple[int, ...], dtype: str) -> Array:
        assert frames.dtype == np.dtype(dtype)
        return frames[begin : begin + shape[0]]

    return allocate


def _joined(
    tables: Sequence[str], parts: Sequence[float], drawn: Sequence[_Part], frames: Array, width: int
) -> SampledBatch:
    """One batch of the rows of several tables, whose frames are in `frames` already."""

    def joined(column: Callable[[SampledBatch], Array]) -> Array:
        return np.concatenate([column(sampled) for _, sampled, _ in drawn])

    numbers = [np.full(len(sampled.probabilities), number, np.int64) for number, sampled, _ in drawn]
    weights = np.concatenate([raw for _, _, raw in drawn])
    annotations = [_annotations(sampled, width) for _, sampled, _ in drawn] if width else None
    return SampledBatch(
        windows=Windows(
            frames,
            joined(lambda sampled: sampled.windows.action),
            joined(lambda sampled: sampled.windows.n_step_return),
            joined(lambda sampled: sampled.windows.discount),
        ),
        keys=TransitionKeys(
            joined(lambda sampled: sampled.keys.shard),
            joined(lambda sampled: sampled.keys.slot),
            joined(lambda sampled: sampled.keys.offset),
            joined(lambda sampled: sampled.keys.generation),
            np.concatenate(numbers),
            tuple(tables),
        ),
        probabilities=np.concatenate([parts[number] * sampled.probabilities for number, sampled, _ in drawn]),
        importance_weights=(weights / weights.max(initial=0.0)).astype(np.float32),
        policy_version=joined(lambda sampled: sampled.policy_version),
        annotation=None if annotations is None else np.concatenate([values for values, _ in annotations]),
        annotated=None if annotations is None else np.concatenate([has_one for _, has_one in annotations]),
    )


def _annotations(sampled: SampledBatch, width: int) -> tuple[Array, Array]:
    """Annotations of a table's rows; none of them has one if the table keeps none."""
    if sampled.annotation is None or sampled.annotated is None:
        num_rows = len(sampled.probabilities)
        return np.zeros((num_rows, width), np.float32), np.zeros(num_rows, bool)
    return sampled.annotation, sampled.annotated
