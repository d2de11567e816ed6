"""Annotations: values that somebody computed for stored states and wrote back, such as a teacher's Q values. Pure."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from upcycle.experience.chunks import Array, ChunkSpec


class Annotations:
    """The annotation of each usable step of each slot, and which of them have one.

    A reader without the writer's lock sees whole annotations: values are written before the flag that stands for them,
    and read after it, in the order that the processor keeps (see `shared_memory.can_share`). That holds for one set of
    values per state and generation: whoever annotates a state again must write the same values. Flags that belong to
    another chunk are told by the slot's generation, which the reader looks at afterwards, as it does for the window.

    Args:
      columns: the arrays named in `annotation_shapes`.
    """

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self._values, self._annotated = columns["annotation"], columns["annotated"]

    @classmethod
    def zeros(cls, spec: ChunkSpec, num_slots: int, width: int) -> Self:
        """No state annotated, in new memory."""
        return cls({name: np.zeros(shape, kind) for name, kind, shape in annotation_shapes(spec, num_slots, width)})

    @property
    def width(self) -> int:
        """Floats of one annotation."""
        return self._values.shape[2]

    @property
    def annotated(self) -> Array:
        """Which steps have one, bool [S, steps]; for reading."""
        return self._annotated

    @property
    def num_bytes(self) -> int:
        """Memory of all of them."""
        return self._values.nbytes + self._annotated.nbytes

    def clear(self, slot: int) -> int:
        """Takes the annotations of a slot away; returns how many there were."""
        num_cleared = int(np.count_nonzero(self._annotated[slot]))
        self._annotated[slot] = False
        return num_cleared

    def write(self, slots: Array, offsets: Array, values: Array) -> int:
        """Annotates states, int64 [B] each, with values float32 [B, width]; returns how many had none before."""
        places = slots * self._annotated.shape[1] + offsets
        num_new = len(np.unique(places[~self._annotated.reshape(-1)[places]]))
        self._values[slots, offsets] = values  # before the flags: a reader may be looking
        self._annotated[slots, offsets] = True
        return num_new

    def read(self, slots: Array, offsets: Array) -> tuple[Array, Array]:
        """The annotations of states, float32 [B, width], 0 where there is none; and where there is one, bool [B]."""
        annotated = self._annotated[slots, offsets]  # before the values: a writer may be at work
        values = self._values[slots, offsets]
        values[~annotated] = 0.0
        return values, annotated


def annotation_shapes(spec: ChunkSpec, num_slots: int, width: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of the arrays, in the order of the arena; none for a width of 0."""
    if not width:
        return []
    return [
        ("annotation", "float32", (num_slots, spec.steps, width)),
        ("annotated", "bool", (num_slots, spec.steps)),
    ]
