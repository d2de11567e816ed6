"""Imported experience, written as an experience log: in bounded memory, on all cores, and again from where it stopped.

The calling thread reads, decompresses what it reads, and appends; others compress, and little waits for them. A log of
one lane says by itself how far it came: its chunks begin a fixed number of rows apart. A file beside its segments,
`import.json`, says what was being imported.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from teacher_store.importers.imported import ImportedExperience, Rows
from teacher_store.importers.lane_chunks import lane_chunks, rows_before
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Chunk, ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.experience.log_segment import CompressedChunk, compress_chunk
from upcycle.files import disk_full_explained, write_atomically
from upcycle.runs.runtime import OnProgress, Stop

_STATE: Final = "import.json"
_WAITING_CHUNKS: Final = 8  # for each thread that compresses: enough that none ever waits for the reader's next block


class _State(BaseModel):
    """The file beside the segments of a log."""

    source: str
    """Fingerprint of what is being imported."""


def write_experience(
    experience: ImportedExperience,
    directory: Path,
    spec: ChunkSpec,
    env: EnvConfig,
    *,
    stop: Stop | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Writes all of an imported buffer to a log, or what is still missing in a log that was interrupted.

    Interrupted or not, and however often, the chunks of a finished log are the same.

    Args:
      directory: of the log; made if it is not there.
      spec: of its chunks; frames must be those of the experience.
      env: what the log says of its environment.
      on_progress: called with rows written, and rows that there are.
      stop: makes it return soon, with the log in good order.
    Raises: UserError if the folder holds a log of something else, the disk is full, or the buffer has actions that
      the environment does not know; CorruptDataError if the source is damaged.
    """
    if (spec.frame_shape, spec.frame_dtype) != (experience.frame_shape, experience.frame_dtype):
        raise ValueError(f"chunks of {spec.frame_dtype} {spec.frame_shape} frames for a buffer of other frames")
    _claim(directory, experience)
    with ExperienceLogWriter.open(directory, spec, env) as log:
        written = log.num_chunks
        rows = _checked(experience.rows(rows_before(spec, written)), spec, env)
        for compressed, num_transitions in _compressed(lane_chunks(rows, spec, num_chunks=written), spec):
            log.append(compressed, num_transitions)
            written += 1
            if on_progress is not None:
                on_progress(min(written * spec.steps, experience.num_rows), experience.num_rows)
            if stop is not None and stop.is_set():
                return
    if on_progress is not None:
        on_progress(experience.num_rows, experience.num_rows)


def _claim(directory: Path, experience: ImportedExperience) -> None:
    """Writes down what the folder is for, or makes sure that it is for the same. Raises: UserError."""
    path = directory / _STATE
    with disk_full_explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in directory.iterdir() if not entry.name.startswith(".")}
    if _STATE not in names:
        if names:
            raise UserError("log", str(directory), "holds something that is no import", "choose an empty folder")
        write_atomically(path, _State(source=experience.fingerprint).model_dump_json().encode())
        return
    try:
        source = _State.model_validate_json(path.read_bytes()).source
    except ValidationError as error:
        raise UserError("log", str(directory), f"has an unreadable {_STATE}", "remove the folder") from error
    if source != experience.fingerprint:
        problem = "holds the beginning of another import"
        raise UserError("log", str(directory), problem, "remove the folder, or import what it belongs to")


def _checked(blocks: Iterator[Rows], spec: ChunkSpec, env: EnvConfig) -> Iterator[Rows]:
    """The same blocks. Raises: UserError for an action that is none of the environment's."""
    for block in blocks:
        largest = int(block.action.max(initial=0))
        if largest >= spec.num_actions:
            problem = f"has {spec.num_actions} actions, the buffer number {largest}"
            raise UserError("task", env.task, problem, "give the task that the buffer is from")
        yield block


def _compressed(chunks: Iterator[Chunk], spec: ChunkSpec) -> Iterator[tuple[CompressedChunk, int]]:
    """Compresses chunks on all cores, and hands them out in their order."""
    threads = os.cpu_count() or 1
    waiting = deque[Future[tuple[CompressedChunk, int]]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="import") as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_compress, chunk, spec))
                if len(waiting) > threads * _WAITING_CHUNKS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _compress(chunk: Chunk, spec: ChunkSpec) -> tuple[CompressedChunk, int]:
    return compress_chunk(encode_chunk(chunk, spec)), chunk.num_transitions(spec)
