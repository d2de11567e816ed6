"""Replay logs of Dopamine (Castro et al. 2018), as `OutOfGraphReplayBuffer.save` and its prioritised kind write them.

A folder holds one gzip file for each column of each checkpoint N, `$store$_observation_ckpt.N.gz` and so on, every one
an array in NumPy's format, except for `episode_end_indices_ckpt.N.gz`, a pickle of a set, which came in January 2021.
`teacher_store.importers.formats.replay_ring` says what the rows mean.

The oldest row of a ring that is full lies in the middle of its file, and gzip can only be read from its beginning. So
the frames before it are decompressed twice: first to get past them, then as the newest. That costs 0.8 us a frame of
Pong (84x84, zlib-ng) and no space; keeping them as LZ4 blocks in a file meanwhile cost 1.1 us for compressing alone.
"""

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np

from teacher_store.importers.formats.dopamine_bundle import protocol
from teacher_store.importers.formats.dopamine_files import (
    ENDS,
    FRAMES,
    OrderedFrames,
    ReplayColumns,
    ReplayFiles,
    choose_checkpoint,
    find_checkpoints,
    read_columns,
)
from teacher_store.importers.formats.replay_ring import STACK, ring_rows
from teacher_store.importers.imported import ImportedExperience, Importer, Request, Rows
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import UserError

_LATER_FILE: Final = "replay/checkpoint.msgpack"
_GZIP: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 4 << 20
_MAX_BLOCK_ROWS: Final = 4096


def _recognises(source: SourceFiles) -> bool:
    found = find_checkpoints(source)
    return source.head(found[-1].names[FRAMES], 2) == _GZIP if found else _later_buffer(source) is not None


def _later_buffer(source: SourceFiles) -> str | None:
    """The buffer of Dopamine 4.1 and later, an Orbax checkpoint, if there is one."""
    names = [name for name in source.names() if f"/{name}".endswith(f"/{_LATER_FILE}")]
    return next((name for name in names if b"add_count" in source.head(name, 4096)), None)


def _read(source: SourceFiles, request: Request) -> ImportedExperience:
    if not find_checkpoints(source):
        problem = f"{_later_buffer(source)} is a buffer of Dopamine 4.1 or later, which holds what was sampled, stacked"
        raise UserError("PATH", str(source.path), problem, "import the agent's weights alone, and let it play")
    files = choose_checkpoint(source, request.checkpoint)
    columns = read_columns(source, files)
    return ImportedExperience(
        rows=partial(_rows, source, files, columns),
        frame_shape=columns.frame_shape,
        frame_dtype="uint8",
        num_actions=None,
        num_rows=columns.ring.num_rows,
        protocol=protocol(columns.frame_shape, STACK),
        fingerprint=columns.fingerprint,
        facts=_facts(files, columns),
    )


def _facts(files: ReplayFiles, columns: ReplayColumns) -> dict[str, str]:
    is_clipped = bool((np.abs(columns.ring.reward) <= 1).all())
    return {
        "checkpoint": str(files.checkpoint),
        "capacity": str(columns.capacity),
        "rows ever added": str(columns.add_count),
        "largest action": str(int(columns.ring.action.max())),
        "rewards": "clipped to [-1, 1]" if is_clipped else "not clipped",
        "time limits": "told from terminal states" if ENDS in files.names else "not told from terminal states",
        "frames of an observation": f"{STACK}, which the format takes for granted",
    }


def _rows(source: SourceFiles, files: ReplayFiles, columns: ReplayColumns, leave_out: int) -> Iterator[Rows]:
    block_rows = min(max(_BLOCK_BYTES // int(np.prod(columns.frame_shape)), 64), _MAX_BLOCK_ROWS)
    with OrderedFrames(source, files, columns) as frames:
        for block in ring_rows(columns.ring, frames.read, columns.frame_shape, block_rows=block_rows):
            if (rest := block.part(leave_out)).num_rows:
                yield rest
            leave_out = max(leave_out - block.num_rows, 0)
        frames.finish()


IMPORTER: Final = Importer(
    name="dopamine-replay",
    title="Dopamine replay buffer",
    recognises=_recognises,
    read_experience=_read,
)
