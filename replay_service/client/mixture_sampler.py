"""Mixtures: batches that hold exact shares of several tables, drawn in one call."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from replay_service.client.allocation import importance_weights, mixture_counts
from replay_service.client.batch_builder import BatchFilling
from replay_service.client.batch_drawer import BatchDrawer, annotation_width, seeded_generator
from replay_service.client.membership import Shards
from replay_service.client.sample_admission import SampleAdmission
from replay_service.table.types import Allocate, SampledBatch, SampleRequest, TransitionKeys
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import Windows

_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class _Mixture:
    """What is asked for: the names of the tables, their shares, summing to 1, and the sizes."""

    tables: tuple[str, ...]
    shares: tuple[float, ...]
    batch_size: int
    num_batches: int


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The rows that one table gives to one batch: its number, the rows, and N, what could be drawn there."""

    table: int
    sampled: SampledBatch
    num_items: int


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
        self._unused: tuple[_Mixture, Array] | None = None

    def sample(self, request: SampleRequest, shares: Mapping[str, float]) -> list[SampledBatch]:
        """Batches of a mixture, as `ShardedReplay.sample` describes them. Raises as it does."""
        if min(request.batch_size, request.num_batches) < 1:
            raise ValueError(f"{request.num_batches} batches of {request.batch_size}: both must be above 0")
        mixture = _Mixture(tuple(shares), checked_shares(shares), request.batch_size, request.num_batches)
        counts, is_used = self._take_counts(mixture, request.draw_seed), False
        totals = zip(mixture.tables, mixture.shares, counts.sum(axis=0).tolist(), strict=True)
        try:
            batches = self._admission.draw_when_admitted(
                {table: total for table, share, total in totals if share > 0},
                lambda shards: self._draw(request, mixture, counts, shards),
                n_step=request.view.n_step,
                timeout_seconds=request.timeout_seconds,
            )
            is_used = True
            return batches
        finally:
            if not is_used and request.draw_seed is None:
                with self._lock:
                    self._unused = (mixture, counts)

    def _take_counts(self, mixture: _Mixture, draw_seed: int | None) -> Array:
        """Rows of each table in each batch, int64 [num_batches, tables].

        Those of the seed; without one new ones, or those that a call like this has left.
        """
        if draw_seed is not None:
            rng = seeded_generator(draw_seed, 0)
            return mixture_counts(np.array(mixture.shares), mixture.batch_size, mixture.num_batches, rng)
        with self._lock:
            unused, self._unused = self._unused, None
            if unused is not None and unused[0] == mixture:
                return unused[1]
            return mixture_counts(np.array(mixture.shares), mixture.batch_size, mixture.num_batches, self._rng)

    def _draw(
        self, request: SampleRequest, mixture: _Mixture, counts: Array, shards: Mapping[str, Shards]
    ) -> list[SampledBatch] | None:
        """Draws counts[b, k] transitions of table k for batch b. None if some table has nothing to give.

        The frames of all tables are copied into the one array of their batch, each table's behind those of the one
        before.
        """
        spec, view, ends = self._spec, request.view, np.cumsum(counts, axis=1)
        draw_seed, exponent = request.draw_seed, request.importance_sampling_exponent
        widths = {table: annotation_width(table, known) for table, known in shards.items()}
        width = _common_width(widths)
        shape = (mixture.batch_size, view.stack + view.n_step, *spec.frame_shape)
        frames = [request.allocate(shape, spec.frame_dtype) for _ in counts]
        drawn: list[list[_Part]] = [[] for _ in counts]
        for number in np.flatnonzero(counts.any(axis=0)).tolist():
            table = mixture.tables[number]
            places = zip(frames, counts[:, number].tolist(), ends[:, number].tolist(), strict=True)
            fillings = [
                BatchFilling(count, spec, view, _rows_of(whole, end - count), annotation_width=widths[table])
                for whole, count, end in places
            ]
            # A generator for each table: draws of one that fills must not move those of one that stays as it is.
            rng = None if draw_seed is None else seeded_generator(draw_seed, 1 + number)
            filled = self._drawer.fill(table, fillings, shards=shards[table], view=view, rng=rng)
            if filled is None:
                return None
            share, num_items = filled
            for parts, filling in zip(drawn, fillings, strict=True):
                parts.append(_Part(number, filling.finish(share, num_items, exponent), num_items))
        return [_joined(mixture, parts, whole, width, exponent) for parts, whole in zip(drawn, frames, strict=True)]


def checked_shares(shares: Mapping[str, float]) -> tuple[float, ...]:
    """The shares in order, summing to 1. Raises: UserError if they do not, by more than rounding."""
    total = math.fsum(shares.values())
    if not all(0 <= share <= 1 for share in shares.values()) or not abs(total - 1) <= _TOLERANCE:
        raise UserError(
            "shares", dict(shares), f"sum to {total:g}", "give each table a share in [0, 1], which sum to 1"
        )
    return tuple(share / total for share in shares.values())


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


def _joined(mixture: _Mixture, parts: Sequence[_Part], frames: Array, width: int, exponent: float) -> SampledBatch:
    """One batch of the rows of several tables, whose frames are in `frames` already."""
    sizes = [len(part.sampled.probabilities) for part in parts]

    def joined(column: Callable[[SampledBatch], Array]) -> Array:
        return np.concatenate([column(part.sampled) for part in parts])

    table = np.repeat([part.table for part in parts], sizes)
    num_items = np.repeat([part.num_items for part in parts], sizes)
    probabilities = joined(lambda sampled: sampled.probabilities)
    weights, largest_weight = importance_weights(probabilities, num_items, exponent)
    annotations = [_annotations(part.sampled, width) for part in parts] if width else None
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
            table,
            mixture.tables,
        ),
        probabilities=probabilities * np.array(mixture.shares)[table],
        importance_weights=weights,
        largest_weight=largest_weight,
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
