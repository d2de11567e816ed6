"""Tiers: how the slots of a table keep frames. The small columns are arrays in all of them.

raw   as they are, in the arena, from which clients on the same host copy windows themselves
warm  the LZ4 blocks that the actor made, so that little more than the window itself is decoded
cold  zstd groups of 16 frames, in memory or in files: a half to a third of warm's bytes, 3 to 6 times the decoding

Windows of a warm or cold table travel as they are kept, and are decoded in the learner's batch.
"""

from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from replay_service.storage.annotations import Annotations
from replay_service.storage.arena import Arena
from replay_service.storage.packed_storage import PackedStorage
from replay_service.storage.spill_files import SpillFiles
from replay_service.table.types import TableConfig, TableDraw, TableSample, Tier
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, Chunk, ChunkSpec
from upcycle.experience.windows import View, Windows, window_values


class Storage(Protocol):
    """What a table asks of a tier.

    Attributes:
      columns: the arrays named in `COLUMNS`, each [S, rows]; what lies past a chunk's rows is arbitrary.
      num_rows: int64 [S], rows that each slot holds; 0 is an empty slot.
      generation: int64 [S], which write filled the slot; never the same twice, 0 is none.
      annotations: beside the usable steps, if states of this table can be annotated.
    """

    spec: ChunkSpec
    num_slots: int
    columns: dict[str, Array]
    num_rows: Array
    generation: Array
    annotations: Annotations | None

    def write(self, slot: int, chunk: Chunk, *, generation: int) -> int:
        """Replaces what `slot` holds; where it raises nothing has changed.

        Returns: how many annotations went with what it held.
        """
        ...

    def gather(self, slots: Array, offsets: Array, view: View) -> Windows:
        """Copies the windows of transitions, int64 [B] each; the same in every tier, bit by bit."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that everything in it takes."""
        ...

    @property
    def held_bytes(self) -> int:
        """Of these, the bytes that the chunks in it take."""
        ...


def make_storage(config: TableConfig, spec: ChunkSpec, num_slots: int, *, buffer: memoryview | None) -> Storage:
    """The storage of a table's tier; `buffer` is for the arena of the tier "raw".

    Raises: UserError if there is no such tier.
    """
    if config.tier not in get_args(Tier):
        raise UserError("replay.tier", config.tier, "there is no such tier", "choose raw, warm or cold")
    width = config.annotation_width
    match config.tier:
        case "raw":
            return Arena(spec, num_slots, annotation_width=width, buffer=buffer)
        case "warm":
            return PackedStorage(spec, num_slots, codec="lz4", annotation_width=width)
        case "cold":
            files = SpillFiles(Path(config.cold_folder)) if config.cold_folder is not None else None
            return PackedStorage(
                spec,
                num_slots,
                codec="zstd",
                annotation_width=width,
                files=files,
                cache_bytes=config.cold_cache_bytes,
            )


def copy_transitions(storage: Storage, draw: TableDraw, view: View, *, packed: bool) -> TableSample:
    """Copies what transitions hold; their frames compressed, if `packed` and the tier has them so."""
    spec, place = storage.spec, (draw.slot, draw.offset)
    policy_version = storage.columns["policy_version"][draw.slot, draw.offset + spec.history]
    blocks = None
    if packed and isinstance(storage, PackedStorage):
        blocks = storage.windows(*place, view)
        frames = np.empty((len(draw.slot), 0), spec.frame_dtype)
        windows = Windows(frames, *window_values(spec, storage.columns, *place, view))
    else:
        windows = storage.gather(*place, view)
    if storage.annotations is None:
        return TableSample(draw, windows, policy_version, blocks)
    return TableSample(draw, windows, policy_version, blocks, *storage.annotations.read(*place))
