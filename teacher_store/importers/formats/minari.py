"""Datasets of Minari 0.5: a folder `data` with `metadata.json` and `main_data.hdf5`.

An episode of T steps has T + 1 observations, the last of which is its final one: a row of ours each. So an episode that
a time limit ended can be bootstrapped, and one whose last step has no flag at all, which was cut off, as well. Of a
stack of frames the newest is a row's frame, after making sure that the others are those of the rows before.

Minari keeps images as JPEG unless it is told otherwise. Such frames are not those that an agent saw: they are taken
only if that is asked for, and the record says so.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from teacher_store.importers.formats.minari_metadata import Metadata, read_metadata, read_values
from teacher_store.importers.imported import ImportedExperience, Importer, Request, Rows
from teacher_store.importers.readers.hdf5_process import Hdf5Process
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array

_METADATA, _DATA = "metadata.json", "main_data.hdf5"
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_BLOCK_BYTES: Final = 4 << 20
_MAX_BLOCK_ROWS: Final = 4096

StackFill = Literal["first_frame", "zeros"]


@dataclass(frozen=True, slots=True, eq=False)
class _Dataset:
    """What is known before its rows are read.

    Attributes:
      data: name of the HDF5 file.
      steps: int64 [E], of each episode.
      stack_fill: what its first stack is filled with; None where observations are single frames.
    """

    metadata: Metadata
    data: str
    steps: Array
    stack_fill: StackFill | None


def _folders(source: SourceFiles) -> list[str]:
    """Folders with a dataset's two files, or with metadata of another storage; "", or ending in "/"."""
    names, found = set(source.names()), list[str]()
    for name in sorted(names):
        folder, slash, last = name.rpartition("/")
        data = f"{folder}{slash}{_DATA}"
        if last != _METADATA or source.head(name, 1) != b"{":
            continue
        is_hdf5 = data in names and source.head(data, len(_HDF5)) == _HDF5
        if is_hdf5 or _is_of_another_storage(source, name):
            found.append(folder + slash)
    return found


def _is_of_another_storage(source: SourceFiles, name: str) -> bool:
    try:
        values = read_values(source, name)
    except CorruptDataError:
        return False
    return "total_episodes" in values and values.get("data_format") not in (None, "hdf5")


def _recognises(source: SourceFiles) -> bool:
    return bool(_folders(source))


def _read(source: SourceFiles, request: Request) -> ImportedExperience:
    folders = _folders(source)
    if len(folders) > 1:
        raise UserError("PATH", str(source.path), f"holds {len(folders)} datasets", "give the folder of one")
    metadata, data = read_metadata(source, folders[0] + _METADATA), folders[0] + _DATA
    if metadata.is_lossy and metadata.stack > 1:
        problem = "keeps its stacks of frames as JPEG, with loss, so that they cannot be taken apart"
        raise UserError("PATH", str(source.path), problem, "record it again with jpeg_encoding=False")
    if metadata.is_lossy and not request.accept_lossy:
        problem = "keeps its frames as JPEG, with loss: they are not those that the agent saw"
        remedy = "record it again with jpeg_encoding=False, or accept that with --accept-lossy"
        raise UserError("PATH", str(source.path), problem, remedy)
    dataset = _describe(source, metadata, data)
    protocol = dict(metadata.protocol)
    if metadata.dtype == "uint8":
        protocol["frame_size"] = metadata.frame_shape[0]
    if dataset.stack_fill is not None:
        protocol |= {"frame_stack": metadata.stack, "stack_fill": dataset.stack_fill}
    return ImportedExperience(
        rows=partial(_rows, source, dataset),
        frame_shape=metadata.frame_shape,
        frame_dtype=metadata.dtype,
        num_actions=metadata.num_actions,
        num_rows=int(dataset.steps.sum()) + len(dataset.steps),
        protocol=protocol,
        fingerprint=source.sha256(folders[0] + _METADATA, data),
        task=metadata.task,
        facts=_facts(dataset),
    )


def _facts(dataset: _Dataset) -> dict[str, str]:
    metadata = dataset.metadata
    stored = "as JPEG, with loss: they are not those that an agent saw" if metadata.is_lossy else "without loss"
    facts = {**metadata.facts, "episodes": str(metadata.episodes), "steps": str(metadata.steps)}
    return facts | ({"frames": f"kept {stored}"} if metadata.dtype == "uint8" else {})


def _layout(metadata: Metadata, *, first: int, block_rows: int) -> dict[str, object]:
    return {
        "jpeg": metadata.is_lossy,
        "shape": metadata.shape,
        "dtype": metadata.dtype,
        "first": first,
        "block_rows": block_rows,
    }


def _describe(source: SourceFiles, metadata: Metadata, data: str) -> _Dataset:
    """Reads how long the episodes are, and the very first observation."""
    with Hdf5Process(source, data, _layout(metadata, first=0, block_rows=1)) as process:
        steps = _read_steps(process)
        if (len(steps), int(steps.sum())) != (metadata.episodes, metadata.steps):
            found = f"{len(steps):,} episodes of {int(steps.sum()):,} steps"
            problem = f"{found}, where its metadata counts {metadata.episodes:,} and {metadata.steps:,}"
            raise CorruptDataError(f"{source.locate(data)}: {problem}")
        if metadata.stack == 1:
            return _Dataset(metadata, data, steps, None)
        opening = _frames(process.read((1, *metadata.shape), "uint8"), metadata)[0]
    where = f"{source.locate(data)}: episode 0"
    for fill in ("first_frame", "zeros"):
        if np.array_equal(opening[:-1], _opening(opening, fill)):
            return _Dataset(metadata, data, steps, fill)
    raise CorruptDataError(f"{where} opens with neither a repeated frame nor zeros: no stack of frames (colours?)")


def _read_steps(process: Hdf5Process) -> Array:
    return process.read((int(json.loads(process.read_line())["episodes"]),), "int64")


def _frames(observations: Array, metadata: Metadata) -> Array:
    """[T, stack, H, W]: the stacks of observations as they are kept."""
    return observations if metadata.stack_axis == 0 else np.moveaxis(observations, -1, 1)


def _opening(stack: Array, fill: StackFill) -> Array:
    """What the older frames of an episode's first stack should be."""
    return np.broadcast_to(stack[-1], stack[:-1].shape) if fill == "first_frame" else np.zeros_like(stack[:-1])


def _rows(source: SourceFiles, dataset: _Dataset, leave_out: int) -> Iterator[Rows]:
    metadata, where = dataset.metadata, str(source.locate(dataset.data))
    row_bytes = int(np.prod(metadata.shape)) * np.dtype(metadata.dtype).itemsize
    block_rows = min(max(_BLOCK_BYTES // row_bytes, 1), _MAX_BLOCK_ROWS)
    begins = np.concatenate([[0], np.cumsum(dataset.steps + 1)])
    first = int(np.searchsorted(begins, leave_out, "right")) - 1
    if first >= len(dataset.steps):
        return
    leave_out -= int(begins[first])
    with Hdf5Process(source, dataset.data, _layout(metadata, first=first, block_rows=block_rows)) as process:
        if not np.array_equal(_read_steps(process), dataset.steps):
            raise CorruptDataError(f"{where}: it is being changed")
        for episode in range(first, len(dataset.steps)):
            reader = _EpisodeReader(process, dataset, int(dataset.steps[episode]), f"{where}: episode {episode}")
            for start in range(0, reader.steps + 1, block_rows):
                rows = reader.read(start, min(start + block_rows, reader.steps + 1))
                if (rest := rows.part(leave_out)).num_rows:
                    yield rest
                leave_out = max(leave_out - rows.num_rows, 0)
        process.finish()


class _EpisodeReader:
    """The rows of one episode, block after block. Raises: CorruptDataError."""

    def __init__(self, process: Hdf5Process, dataset: _Dataset, steps: int, where: str) -> None:
        self._process, self._dataset, self.steps, self._where = process, dataset, steps, where
        self._last: Array | None = None  # the stack before the next block

    def read(self, start: int, stop: int) -> Rows:
        """Rows `start` to `stop`, of which the one after the last step is the final observation."""
        metadata, read = self._dataset.metadata, self._process.read
        observations = read((stop - start, *metadata.shape), metadata.dtype)
        count = min(stop, self.steps) - start
        action, reward = read((count,), "int64") - metadata.first_action, read((count,), "float64")
        terminated, truncated = read((count,), "uint8").astype(bool), read((count,), "uint8").astype(bool)
        if count and not 0 <= int(action.min()) <= int(action.max()) < metadata.num_actions:
            raise CorruptDataError(f"{self._where}: an action that is none of {metadata.num_actions}")
        with np.errstate(over="ignore"):
            reward = reward.astype(np.float32)
        if not bool(np.isfinite(reward).all()):
            raise CorruptDataError(f"{self._where}: a reward that is not finite")
        ends, last = terminated | truncated, self.steps - 1 - start
        if bool(ends[: max(last, 0)].any()):
            raise CorruptDataError(f"{self._where}: it goes on after its end")
        truncated &= ~terminated
        if 0 <= last < count and not ends[last]:
            truncated[last] = True  # cut off
        is_final = np.arange(start, stop) == self.steps

        def whole(column: Array, dtype: str) -> Array:
            return np.concatenate([column, np.zeros(stop - start - count, column.dtype)]).astype(dtype)

        return Rows(
            frame=self._newest(observations),
            action=whole(action, "int32"),
            reward=whole(reward, "float32"),
            terminated=whole(terminated, "bool"),
            truncated=whole(truncated, "bool"),
            first=np.arange(start, stop) == 0,
            final=is_final,
        )

    def _newest(self, observations: Array) -> Array:
        """The frame of each row."""
        metadata, fill = self._dataset.metadata, self._dataset.stack_fill
        if metadata.dtype == "float32" and not bool(np.isfinite(observations).all()):
            raise CorruptDataError(f"{self._where}: an observation that is not finite")
        if fill is None:
            return observations.reshape(len(observations), *metadata.frame_shape)
        stacks = _frames(observations, metadata)
        before = stacks[:1] if self._last is None else self._last[None]
        if self._last is None and not np.array_equal(stacks[0, :-1], _opening(stacks[0], fill)):
            raise CorruptDataError(f"{self._where}: its first stack is not filled as the first episode's")
        older = np.concatenate([before, stacks])[:-1, 1:]
        fits = stacks[:, :-1] == older
        if not bool(fits[1 if self._last is None else 0 :].all()):
            raise CorruptDataError(f"{self._where}: its observations are no stacks of consecutive frames (colours?)")
        self._last = stacks[-1].copy()
        return np.ascontiguousarray(stacks[:, -1])


IMPORTER: Final = Importer(
    name="minari",
    title="Minari dataset",
    recognises=_recognises,
    read_experience=_read,
)
