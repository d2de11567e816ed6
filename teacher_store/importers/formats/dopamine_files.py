"""The files of a checkpoint of Dopamine's replay buffer; `dopamine_replay` says what they are."""

import hashlib
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from teacher_store.importers.formats.replay_ring import Ring
from teacher_store.importers.readers.gzip_arrays import StoredArray, open_array
from teacher_store.importers.readers.pickle_numpy import plain_constructors
from teacher_store.importers.readers.pickle_reader import read_pickle
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import Array
from upcycle.narrowing import is_set

FRAMES: Final = "$store$_observation"
ENDS: Final = "episode_end_indices"
_FILE: Final = re.compile(
    r"((?:.*/)?)(\$store\$_[a-z]+|add_count|episode_end_indices|invalid_range)_ckpt\.(\d{1,9})\.gz"
)
_ACTION, _REWARD, _TERMINAL, _COUNT = "$store$_action", "$store$_reward", "$store$_terminal", "add_count"
_MAX_ROWS: Final = 16_000_000
_MAX_SIDE: Final = 1024
_MAX_ACTIONS: Final = 1024
_MAX_PICKLE_BYTES: Final = 32 << 20
_TRAILER_BYTES: Final = 8  # of a gzip file: CRC-32 and length of what is in it


@dataclass(frozen=True, slots=True)
class ReplayFiles:
    """The files of one checkpoint.

    Attributes:
      checkpoint: its number.
      names: by what is in them.
    """

    checkpoint: int
    names: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayColumns:
    """All that is not frames.

    Attributes:
      ring: the columns, from the oldest row to the newest.
      capacity: rows of the files.
      add_count: rows that were ever added.
      frame_shape: (H, W).
      fingerprint: SHA-256 that says which buffer it is.
    """

    ring: Ring
    capacity: int
    add_count: int
    frame_shape: tuple[int, ...]
    fingerprint: str

    @property
    def oldest(self) -> int:
        """Where in the files the oldest row lies."""
        return self.add_count % self.capacity if self.add_count > self.capacity else 0


def find_checkpoints(source: SourceFiles) -> list[ReplayFiles]:
    """Checkpoints that have all files they need, from the oldest to the newest; of several folders, side by side."""
    found = dict[tuple[int, str], dict[str, str]]()
    for name in source.names():
        if (match := _FILE.fullmatch(name)) is not None:
            found.setdefault((int(match[3]), match[1]), {})[match[2]] = name
    needed = {FRAMES, _ACTION, _REWARD, _TERMINAL, _COUNT}
    return [ReplayFiles(number, names) for (number, _), names in sorted(found.items()) if needed <= set(names)]


def choose_checkpoint(source: SourceFiles, wanted: int | None) -> ReplayFiles:
    """The checkpoint of a number, or the newest. Raises: UserError if there is none, or one in several folders."""
    found = find_checkpoints(source)
    number = found[-1].checkpoint if wanted is None else wanted
    fitting = [files for files in found if files.checkpoint == number]
    if not fitting:
        known = ", ".join(str(files.checkpoint) for files in found)
        raise UserError("--checkpoint", number, "this buffer was not saved then", f"there are {known}")
    if len(fitting) > 1:
        raise UserError("PATH", str(source.path), f"has several buffers of checkpoint {number}", "give one's folder")
    return fitting[0]


def read_columns(source: SourceFiles, files: ReplayFiles) -> ReplayColumns:
    """Reads everything but the frames. Raises: CorruptDataError naming the file; UserError if the buffer is empty."""
    add_count = _add_count(source, files)
    action = _column(source, files, _ACTION, None)
    reward = _column(source, files, _REWARD, action.shape)
    terminal = _column(source, files, _TERMINAL, action.shape)
    capacity, cursor, is_whole = len(action), add_count % len(action), add_count <= len(action)

    def in_order(column: Array) -> Array:
        return column[:add_count] if is_whole else np.concatenate([column[cursor:], column[:cursor]])

    ended = in_order(_ends(source, files, capacity))
    action, reward, terminal = in_order(action), in_order(reward), in_order(terminal)
    if not 0 <= int(action.min()) <= int(action.max()) < _MAX_ACTIONS:
        raise CorruptDataError(f"{_where(source, files, _ACTION)}: an action outside [0, {_MAX_ACTIONS})")
    with np.errstate(over="ignore"):
        reward = reward.astype(np.float32)
    if not bool(np.isfinite(reward).all()):
        raise CorruptDataError(f"{_where(source, files, _REWARD)}: a reward that is not finite")
    if not bool(((terminal == 0) | (terminal == 1)).all()):
        raise CorruptDataError(f"{_where(source, files, _TERMINAL)}: a terminal that is neither 0 nor 1")
    terminal = terminal.astype(bool)
    ring = Ring(action.astype(np.int32), reward, terminal, ended | terminal, is_whole)
    frame_shape = _frame_shape(source, files, capacity)
    digest = hashlib.sha256(repr((files.checkpoint, capacity, add_count, frame_shape)).encode())
    for column in (ring.action, ring.reward, ring.terminal, ring.ended):
        digest.update(column.tobytes())
    digest.update(source.tail(files.names[FRAMES], _TRAILER_BYTES))
    return ReplayColumns(ring, capacity, add_count, frame_shape, digest.hexdigest())


def _where(source: SourceFiles, files: ReplayFiles, kind: str) -> str:
    return str(source.locate(files.names[kind]))


def _add_count(source: SourceFiles, files: ReplayFiles) -> int:
    with open_array(source, files.names[_COUNT]) as array:
        if array.shape != () or array.dtype.kind not in "iu":
            raise CorruptDataError(f"{_where(source, files, _COUNT)}: no number of rows")
        count = int(array.read_all())
    if count < 0:
        raise CorruptDataError(f"{_where(source, files, _COUNT)}: {count} rows")
    if count == 0:
        raise UserError("PATH", str(source.path), "is an empty buffer", "choose a later checkpoint")
    return count


def _column(source: SourceFiles, files: ReplayFiles, kind: str, shape: tuple[int, ...] | None) -> Array:
    with open_array(source, files.names[kind]) as array:
        where = _where(source, files, kind)
        if len(array.shape) != 1 or not 1 <= array.shape[0] <= _MAX_ROWS or array.shape != (shape or array.shape):
            wanted = f"as its actions, {shape}" if shape else f"of 1 to {_MAX_ROWS:,} rows"
            raise CorruptDataError(f"{where}: shape {array.shape}, where a column {wanted}, belongs")
        if kind == _ACTION and array.dtype.kind not in "iu":
            raise CorruptDataError(f"{where}: actions of dtype {array.dtype}")
        return array.read_all()


def _ends(source: SourceFiles, files: ReplayFiles, capacity: int) -> Array:
    """Bool [capacity]: rows after which an episode ended, as far as the checkpoint says so."""
    ended = np.zeros(capacity, bool)
    if ENDS not in files.names:
        return ended
    where = _where(source, files, ENDS)
    value, _ = read_pickle(source.gunzip(files.names[ENDS], limit=_MAX_PICKLE_BYTES), plain_constructors(), where=where)
    if not is_set(value):
        raise CorruptDataError(f"{where}: a {type(value).__name__} where a set belongs")
    for index in value:
        if type(index) is not int or not 0 <= index < capacity:
            raise CorruptDataError(f"{where}: {index!r} is no row of the buffer")
        ended[index] = True
    return ended


def _frame_shape(source: SourceFiles, files: ReplayFiles, capacity: int) -> tuple[int, ...]:
    with open_array(source, files.names[FRAMES]) as frames:
        where = _where(source, files, FRAMES)
        if frames.dtype != np.uint8 or len(frames.shape) != 3 or frames.shape[0] != capacity:
            problem = f"{frames.dtype} {frames.shape}, where uint8 frames ({capacity}, height, width) belong"
            raise CorruptDataError(f"{where}: {problem}")
        if not all(1 <= side <= _MAX_SIDE for side in frames.shape[1:]):
            raise CorruptDataError(f"{where}: frames of {frames.shape[1:]} pixels")
        return frames.shape[1:]


class OrderedFrames:
    """The frames of a ring from the oldest to the newest. Used as a context; methods raise CorruptDataError."""

    def __init__(self, source: SourceFiles, files: ReplayFiles, columns: ReplayColumns) -> None:
        self._source, self._name, self._columns = source, files.names[FRAMES], columns
        self._frame_bytes = int(np.prod(columns.frame_shape))
        self._open = ExitStack()
        self._array: StoredArray | None = None
        self._left = 0  # frames until the end of the file, or of the rows that are in use

    def read(self, out: Array) -> None:
        """Fills uint8 [n, *frame_shape] with the next n frames."""
        while len(out):
            if not self._left:
                self._turn()
            assert self._array is not None
            count = min(self._left, len(out))
            self._array.read_into(out[:count])
            out, self._left = out[count:], self._left - count

    def _turn(self) -> None:
        """Goes to the oldest frame, or from the end of the file to its beginning."""
        oldest, rows = self._columns.oldest, len(self._columns.ring.action)
        before = self._array
        if before is not None:
            before.finish()
        self._open.close()
        self._array = self._open.enter_context(open_array(self._source, self._name))
        if before is None:
            self._array.skip(oldest * self._frame_bytes)
            self._left = rows - oldest
        else:
            self._left = oldest

    def finish(self) -> None:
        """Reads on to the end of the file, unless that was done."""
        if self._array is not None and not self._columns.oldest:
            self._array.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
