"""Batches while they are put together: from replies that carry windows, and from replies that only name them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from replay_service.client.allocation import importance_weights
from replay_service.client.mapped_arena import MappedArena
from replay_service.storage.packed_windows import PackedWindows
from replay_service.table.types import Allocate, SampledBatch, ScannedBatch, TransitionKeys
from replay_service.wire.codec import sample_layout
from upcycle.experience import kernels
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View, Windows


class Reply(Protocol):
    """What one shard gave for one request."""

    @property
    def num_rows(self) -> int:
        """Transitions in the reply."""
        ...

    def copy_to(self, columns: Mapping[str, Array], begin: int, rows: Array) -> int:
        """Copies some of its transitions to columns[name][begin:], and returns how many of them were still there."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class WindowReply:
    """A reply that carries the windows; their frames may be in blocks, apart from the columns."""

    columns: Mapping[str, Array]
    packed: PackedWindows | None = None

    @property
    def num_rows(self) -> int:
        """Transitions in the reply."""
        return len(self.columns["slot"])

    def copy_to(self, columns: Mapping[str, Array], begin: int, rows: Array) -> int:
        """Copies transitions out of the message: the only copy between it and the learner's batch."""
        place = slice(begin, begin + len(rows))
        for name, column in self.columns.items():
            if name != "frames":
                columns[name][place] = column[rows]
        if self.packed is not None:
            self.packed.take(rows).unpack_into(columns["frames"][place])
        else:
            frames = self.columns["frames"]
            kernels.copy_pieces(frames.reshape(-1).view(np.uint8), rows * frames[:1].nbytes, columns["frames"][place])
        return len(rows)


class KeyReply:
    """A reply that names transitions of a shard whose arena is mapped here."""

    def __init__(self, columns: Mapping[str, Array], arena: MappedArena, view: View) -> None:
        self._keys, self._arena, self._view = columns, arena, view
        # What is small is read once for all rows; whether it can be trusted shows after the frames have been copied.
        self._values = arena.values(columns["slot"], columns["offset"], view)

    @property
    def num_rows(self) -> int:
        """Transitions in the reply."""
        return len(self._keys["slot"])

    def copy_to(self, columns: Mapping[str, Array], begin: int, rows: Array) -> int:
        """Copies transitions out of the shard's memory; those overwritten since the draw are left out."""
        slots, offsets, generations = (self._keys[name][rows] for name in ("slot", "offset", "generation"))
        frames = columns["frames"][begin : begin + len(rows)]
        whole = self._arena.copy_frames(slots, offsets, generations, self._view, out=frames)
        num_whole = int(np.count_nonzero(whole))
        chosen = rows if num_whole == len(rows) else rows[whole]
        for name, column in {**self._keys, **self._values}.items():
            columns[name][begin : begin + num_whole] = column[chosen]
        if num_whole < len(rows):
            frames[:num_whole] = frames[whole]
        return num_whole


class BatchFilling:
    """One batch of `size` transitions, filled from the front, in any order.

    Attributes:
      num_rows: transitions that are in it.
    """

    def __init__(
        self, size: int, spec: ChunkSpec, view: View, allocate: Allocate, *, annotation_width: int = 0
    ) -> None:
        self._size, self.num_rows = size, 0
        self._shard = np.empty(size, np.int64)
        self._columns = dict[str, Array]()
        for name, (dtype, shape) in sample_layout(spec, view, annotation_width).items():
            whole = (size, *shape)
            self._columns[name] = allocate(whole, dtype) if name == "frames" else np.empty(whole, dtype)

    @property
    def num_missing(self) -> int:
        """Transitions that it has room for."""
        return self._size - self.num_rows

    def add(self, shard: int, reply: Reply, rows: Array) -> int:
        """Takes these rows of a shard's reply; returns how many of them were lost on the way."""
        num_added = reply.copy_to(self._columns, self.num_rows, rows)
        self._shard[self.num_rows : self.num_rows + num_added] = shard
        self.num_rows += num_added
        return len(rows) - num_added

    def drop(self, shard: int) -> None:
        """Takes a shard's transitions out again."""
        kept = self._shard[: self.num_rows] != shard
        num_kept = int(np.count_nonzero(kept))
        if num_kept < self.num_rows:
            for column in (self._shard, *self._columns.values()):
                column[:num_kept] = column[: self.num_rows][kept]
            self.num_rows = num_kept

    def finish(self, share: Mapping[int, float], num_items: int, exponent: float) -> SampledBatch:
        """The batch, once it is full.

        Args:
          share: of each shard in the mass of all.
          num_items: N, transitions that could be drawn in all shards.
          exponent: beta of the importance weights.
        """
        columns = self._columns
        shares = np.zeros(max(share) + 1)
        shares[list(share)] = list(share.values())
        probability = columns["probability"] * shares[self._shard]
        weights, largest_weight = importance_weights(probability, num_items, exponent)
        return SampledBatch(
            windows=Windows(columns["frames"], columns["action"], columns["n_step_return"], columns["discount"]),
            keys=TransitionKeys(self._shard, columns["slot"], columns["offset"], columns["generation"]),
            probabilities=probability,
            importance_weights=weights,
            largest_weight=largest_weight,
            policy_version=columns["policy_version"],
            annotation=columns.get("annotation"),
            annotated=columns.get("annotated"),
        )

    def scanned(self) -> ScannedBatch:
        """What is in it, as a batch of a pass."""
        columns = {name: column[: self.num_rows] for name, column in self._columns.items()}
        return ScannedBatch(
            windows=Windows(columns["frames"], columns["action"], columns["n_step_return"], columns["discount"]),
            keys=TransitionKeys(
                self._shard[: self.num_rows], columns["slot"], columns["offset"], columns["generation"]
            ),
            policy_version=columns["policy_version"],
            annotation=columns.get("annotation"),
            annotated=columns.get("annotated"),
        )
