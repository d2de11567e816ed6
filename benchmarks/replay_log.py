"""A replay log in Dopamine's format, of any size, of real EnvPool frames.

Many lanes play side by side and are written one after another, as the one lane of Dopamine would have filled its
buffer: padding before each episode, its last observation left out, a lane that is cut off marked as ended by a time
limit. The buffer is full and its oldest row lies in the middle of the files, as in every buffer that is published.

A play that is shorter than the log is written over and over: for the importer each copy is as new as the first, since
no window of gzip or zstd is a thousandth of it.

    python -m benchmarks.replay_log --task Pong-v5 --folder FOLDER --transitions 1000000
"""

import argparse
import gzip
import io
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import zstandard
from numpy.lib import format as npy
from zlib_ng import gzip_ng

from actors.envs import EnvPoolLanes
from teacher_store.importers.formats.dopamine_bundle import protocol
from upcycle.config.run import EnvConfig
from upcycle.experience.chunks import Array
from upcycle.files import write_atomically

SIZE: Final = 84
_STACK, _N_STEP, _CHECKPOINT = 4, 1, 199
_LANES: Final = 32
_STICKY: Final = 0.25  # probability that the random player repeats its last action
_SEED: Final = 20_26
_DONE: Final = "done"


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    """What one lane played; its frames are in a file.

    Attributes:
      spool: compressed frames, in order, and perhaps one more.
      action, reward, terminal, ended, first: [T].
    """

    spool: Path
    action: Array
    reward: Array
    terminal: Array
    ended: Array
    first: Array

    @property
    def places(self) -> Array:
        """int64 [T], where each row lies among the rows of the buffer that the lane makes."""
        return np.arange(len(self.action)) + (_STACK - 1) * np.cumsum(self.first)

    @property
    def num_rows(self) -> int:
        """Rows of the buffer that it makes, padding included."""
        return len(self.action) + (_STACK - 1) * int(self.first.sum())

    def spread(self, column: Array) -> Array:
        """A column with zeros where the padding is."""
        out = np.zeros(self.num_rows, column.dtype)
        out[self.places] = column
        return out

    def frames(self) -> Iterator[bytes]:
        """All rows of the buffer, padding included."""
        padding = bytes((_STACK - 1) * SIZE * SIZE)
        with self.spool.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as frames:
            for first in self.first:
                yield (padding if first else b"") + frames.read(SIZE * SIZE)


def recorded_log(task: str, folder: Path, *, transitions: int, played: int) -> Path:
    """The folder of a log that was made before, or is made now.

    Args:
      transitions: that it holds, at the least.
      played: so many of them are different.
    """
    played = min(played, transitions)
    place = folder / f"dopamine-{task}-{transitions}-{played}"
    if not (place / _DONE).exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="spool-", dir=place) as spools:
            _write(_play(task, Path(spools), transitions=played) * -(-transitions // played), place)
        write_atomically(place / _DONE, b"")
    return place


def _play(task: str, spools: Path, *, transitions: int) -> list[_Lane]:
    """Plays sticky random games under Dopamine's protocol, its rewards clipped."""
    env = EnvConfig.model_validate({"task": task, **protocol((SIZE, SIZE), _STACK)})
    lanes, rng = min(_LANES, transitions), np.random.default_rng(_SEED)
    length = -(-transitions // lanes) + 1  # nothing is known of the outcome of a lane's last row
    names = ("action", "reward", "terminal", "ended", "first")
    columns = {name: np.zeros((lanes, length + 1), np.float32) for name in names}
    played = np.zeros(lanes, np.int64)  # rows of each lane that have begun
    with ExitStack() as stack:
        pool = stack.enter_context(
            EnvPoolLanes(env, lanes=lanes, recv_batch=lanes, seed=_SEED, threads=2, training=True)
        )
        files = [
            stack.enter_context(
                cast(BinaryIO, zstandard.open(spools / f"{lane}.zst", "wb", zstandard.ZstdCompressor(level=1)))
            )
            for lane in range(lanes)
        ]
        action = np.zeros(lanes, np.int32)
        while int(played.min()) <= length:
            rows = pool.recv()
            repeats = rng.random(lanes) < _STICKY
            action = np.where(repeats, action, rng.integers(pool.spec.num_actions, size=lanes, dtype=np.int32))
            for row, lane in enumerate(rows.lane.tolist()):
                at = int(played[lane])
                if at > length:
                    continue
                if not rows.first[row]:
                    columns["reward"][lane, at - 1] = np.clip(rows.reward[row], -1, 1)
                    columns["terminal"][lane, at - 1] = rows.terminated[row]
                    columns["ended"][lane, at - 1] = rows.ended[row]
                if not rows.ended[row]:
                    files[lane].write(rows.frame[row].tobytes())
                    columns["action"][lane, at], columns["first"][lane, at] = action[row], rows.first[row]
                    played[lane] = at + 1
            pool.send(action, rows.lane)
            if (steps := int(played.min())) % 1000 == 0:
                print(f"  {task}: {steps * lanes:,} steps", file=sys.stderr)
    columns["ended"][:, length - 1] = 1
    return [
        _Lane(
            spools / f"{lane}.zst",
            action=columns["action"][lane, :length].astype(np.int32),
            reward=columns["reward"][lane, :length],
            **{name: columns[name][lane, :length].astype(bool) for name in ("terminal", "ended", "first")},
        )
        for lane in range(lanes)
    ]


def _write(lanes: list[_Lane], folder: Path) -> None:
    """Writes what `OutOfGraphReplayBuffer.save` would: the newer half of the rows first, then the older half."""
    half = len(lanes) // 2
    ordered, cursor = lanes[half:] + lanes[:half], sum(lane.num_rows for lane in lanes[half:])
    capacity = sum(lane.num_rows for lane in lanes)

    def column(name: str) -> Array:
        return np.concatenate([lane.spread(getattr(lane, name)) for lane in ordered])

    def path(name: str) -> Path:
        return folder / f"{name}_ckpt.{_CHECKPOINT}.gz"

    time_limits = np.flatnonzero(column("ended") & ~column("terminal"))
    arrays = {
        "$store$_action": column("action"),
        "$store$_reward": column("reward"),
        "$store$_terminal": column("terminal").astype(np.uint8),
        "add_count": np.array(capacity + cursor),
        "invalid_range": np.arange(cursor - _N_STEP, cursor + _STACK) % capacity,
    }
    for name, array in arrays.items():
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        path(name).write_bytes(gzip.compress(data.getvalue()))
    path("episode_end_indices").write_bytes(gzip.compress(pickle.dumps(set(time_limits))))
    header = {"descr": "|u1", "fortran_order": False, "shape": (capacity, SIZE, SIZE)}
    # Dopamine's level is 9, whose file is hardly smaller and takes 17 times as long to write; reading costs the same.
    with cast(BinaryIO, gzip_ng.open(path("$store$_observation"), "wb", compresslevel=6)) as file:
        npy.write_array_header_1_0(file, header)
        for lane in ordered:
            for frames in lane.frames():
                file.write(frames)


def main() -> None:
    """Makes a log, or finds it, and prints its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="Pong-v5")
    parser.add_argument("--folder", type=Path, required=True, help="where logs are kept")
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--played", type=int, help="different ones of them (default: all)")
    arguments = parser.parse_args()
    transitions: int = arguments.transitions
    played = transitions if arguments.played is None else arguments.played
    print(recorded_log(arguments.task, arguments.folder, transitions=transitions, played=played))


if __name__ == "__main__":
    main()
