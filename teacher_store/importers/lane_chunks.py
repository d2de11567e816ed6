"""Rows of one lane in, chunks out: what `actors.chunk_writer` is to actors, for buffers that others have left.

Pure. A chunk is as far as possible a view of the block that it came from; only chunks that lie across the seam between
two blocks are copied.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Final

import numpy as np

from teacher_store.importers.imported import Rows
from upcycle.experience.chunks import COLUMNS, MAX_PRIORITY, Chunk, ChunkSpec

_NAMES: Final = tuple(field.name for field in fields(Rows))


def rows_before(spec: ChunkSpec, num_chunks: int) -> int:
    """Rows that a lane may leave out where its first `num_chunks` chunks are there already."""
    return max(num_chunks * spec.steps - spec.history, 0)


def lane_chunks(blocks: Iterable[Rows], spec: ChunkSpec, *, num_chunks: int = 0) -> Iterator[Chunk]:
    """Cuts a lane into chunks, those that a `ChunkWriter` fed with the same rows would make.

    Every row that is not final is usable in exactly one chunk, where its priority is `MAX_PRIORITY`; all others have
    priority 0, the last row of the lane too, since nobody knows what came after it. Chunks begin `spec.steps` rows
    apart, and the history of the first is zeros.

    Args:
      blocks: consecutive rows, in blocks of any size.
      spec: shape of the chunks.
      num_chunks: of the lane that are there already: the rows begin with row `rows_before(spec, num_chunks)`, and the
        chunks with the one of this number.
    """
    missing = spec.history - min(num_chunks * spec.steps, spec.history)
    pending = _zeros(spec, missing)  # rows from the beginning of the next chunk on
    for block in blocks:
        # Every chunk that begins among the pending rows ends within so many of the block's.
        seam = _joined(pending, block.part(0, spec.rows))
        start, stop = 0, pending.num_rows
        while start < stop and start + spec.rows < seam.num_rows:
            yield _chunk(seam, start, spec.rows, spec)
            start += spec.steps
        if start < stop:  # the block was too short: all of it is in the seam
            pending = seam.part(start, seam.num_rows)
            continue
        start -= stop
        while start + spec.rows < block.num_rows:
            yield _chunk(block, start, spec.rows, spec)
            start += spec.steps
        pending = block.part(start, block.num_rows)
    yield from _tail(pending, spec)


def _tail(rows: Rows, spec: ChunkSpec) -> Iterator[Chunk]:
    """The chunks of what is left when the lane ends; those after its last transition are left out."""
    if rows.num_rows <= spec.history:
        return
    rows = Rows(**{name: getattr(rows, name).copy() for name in _NAMES})
    rows.reward[-1], rows.terminated[-1], rows.truncated[-1], rows.final[-1] = 0, False, False, True
    chunks = [
        _chunk(rows, start, min(spec.rows, rows.num_rows - start), spec)
        for start in range(0, rows.num_rows - spec.history, spec.steps)
    ]
    while chunks and not chunks[-1].num_transitions(spec):
        chunks.pop()
    yield from chunks


def _chunk(rows: Rows, start: int, num_rows: int, spec: ChunkSpec) -> Chunk:
    """The chunk of the rows from `start` on."""
    part = rows.part(start, start + num_rows)
    priority = np.zeros(num_rows, COLUMNS["priority"])
    usable = slice(spec.history, spec.history + spec.steps)
    priority[usable] = np.where(part.final[usable], 0, MAX_PRIORITY)
    known = {name: getattr(part, name) for name in ("action", "reward", "terminated", "truncated", "first")}
    return Chunk(part.frame, known | {"priority": priority, "policy_version": np.zeros(num_rows, np.int64)})


def _zeros(spec: ChunkSpec, num_rows: int) -> Rows:
    columns = {name: np.zeros(num_rows, COLUMNS.get(name, "bool")) for name in _NAMES[1:]}
    return Rows(np.zeros((num_rows, *spec.frame_shape), spec.frame_dtype), **columns)


def _joined(first: Rows, second: Rows) -> Rows:
    return Rows(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in _NAMES))
