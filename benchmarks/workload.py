"""What the replay benchmarks move: real frames of two Atari games, cut into the chunks that actors send.

Pong is the easiest of the games to compress and MsPacman one of the hardest, so a figure that holds on both holds on
most. Sticky random play gives frames, episode ends and rewards as they come early in training.

    python -m benchmarks.workload --game pong --folder FOLDER      # plays, or finds what was played before
"""

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from upcycle.experience.chunks import Array, Chunk, ChunkSpec, encode_chunk
from upcycle.experience.windows import View
from upcycle.files import write_atomically

Game = Literal["pong", "mspacman"]
GAMES: Final[dict[Game, str]] = {"pong": "Pong-v5", "mspacman": "MsPacman-v5"}
"""Names on the command line, and EnvPool's."""

VIEW: Final = View(n_step=3, stack=4, gamma=0.99)
WINDOW_FRAMES: Final = VIEW.stack + VIEW.n_step
NUM_ROWS: Final = 20_000
PRIORITY_EXPONENT: Final = 0.6
_STICKY: Final = 0.25  # probability that the random player repeats its last action
_LANES: Final = 8
_SEED: Final = 20_26


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """T consecutive rows of one lane, as `upcycle.experience.chunks` defines a row.

    Attributes:
      frame: newest frame of each row, uint8 [T, H, W].
      action: int32 [T], sent in the row.
      reward: float32 [T], raw, that came back with the row: for the action of the row before.
      terminated, truncated: bool [T], that came back with the row.
      first: bool [T], the row opens an episode.
      num_actions: size of the action set.
    """

    frame: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    num_actions: int

    def spec(self, *, steps: int = 64) -> ChunkSpec:
        """The chunks that this play makes: `VIEW` can be sampled from them."""
        return ChunkSpec(
            frame_shape=cast(tuple[int, ...], self.frame.shape[1:]),
            frame_dtype="uint8",
            num_actions=self.num_actions,
            steps=steps,
            history=VIEW.stack - 1,
            lookahead=VIEW.n_step,
        )

    def save(self, folder: Path) -> None:
        """Writes one .npy file per column; `load` reads them again."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _columns():
            np.save(folder / f"{name}.npy", getattr(self, name))
        # The last file says that the others are whole.
        write_atomically(folder / "play.json", json.dumps({"num_actions": self.num_actions}).encode())

    @classmethod
    def load(cls, folder: Path) -> "Play | None":
        """What `save` wrote, or None if it did not get to its end."""
        if not (folder / "play.json").exists():
            return None
        values: dict[str, Any] = json.loads((folder / "play.json").read_text(encoding="utf-8"))
        return cls(**{name: np.load(folder / f"{name}.npy") for name in _columns()}, **values)


def recorded(game: Game, folder: Path, *, rows: int = NUM_ROWS) -> Play:
    """The play of a game kept in `folder`, played and saved there first if it is not."""
    place = place_of(game, folder, rows=rows)
    play = Play.load(place)
    if play is None:
        play = random_play(GAMES[game], rows=rows)
        play.save(place)
    return play


def place_of(game: Game, folder: Path, *, rows: int = NUM_ROWS) -> Path:
    """Where in `folder` a play is kept."""
    return folder / f"{game}-{rows}"


def random_play(task: str, *, rows: int, frame_size: int = 84) -> Play:
    """Plays one lane of an EnvPool task at random, repeating the last action now and then; the same rows each time."""
    # EnvPool takes seconds to import, and a process that finds the play on disk needs none of it.
    from actors.envs import EnvPoolLanes
    from upcycle.config.run import EnvConfig

    rng = np.random.default_rng(_SEED)
    columns: dict[str, list[Array]] = {name: [] for name in _columns()}
    env = EnvConfig(task=task, frame_size=frame_size)
    with EnvPoolLanes(env, lanes=1, recv_batch=1, seed=_SEED, threads=1, training=True) as lanes:
        num_actions = lanes.spec.num_actions
        action = np.zeros(1, np.int32)
        for _ in range(rows):
            received = lanes.recv()
            if rng.random() >= _STICKY:
                action = rng.integers(num_actions, size=1, dtype=np.int32)
            columns["action"].append(action)
            for name in ("frame", "reward", "terminated", "truncated", "first"):
                columns[name].append(np.copy(getattr(received, name)))
            lanes.send(action, received.lane)
    return Play(**{name: np.concatenate(column) for name, column in columns.items()}, num_actions=num_actions)


def chunks_of(play: Play, spec: ChunkSpec) -> list[Chunk]:
    """The play as chunks with priorities, as an actor would have cut and rated it.

    Priorities of transitions are log-normal: TD errors of a network in training, most of them small, a few large.
    """
    from actors.chunk_writer import ChunkWriter

    rng = np.random.default_rng(_SEED)
    writer, chunks = ChunkWriter(spec, 1), list[Chunk]()
    for rows, action in lane_rows(play, lanes=1):
        chunks += writer.push(rows, action)
    for chunk in chunks:
        priority = chunk.columns["priority"]
        drawn = np.exp(rng.normal(-2.0, 1.0, len(priority)))
        priority[:] = np.where(priority > 0, drawn, 0)
    return chunks


def lane_rows(play: Play, *, lanes: int = _LANES) -> "list[tuple[Any, Array]]":
    """The play as rows of `lanes` lanes side by side, each with its actions, as `ChunkWriter.push` takes them."""
    from actors.envs import LaneRows

    length = len(play.action) // lanes
    columns = {
        name: getattr(play, name)[: lanes * length].reshape(lanes, length, *getattr(play, name).shape[1:])
        for name in _columns()
    }
    lane, zeros = np.arange(lanes, dtype=np.int32), np.zeros(lanes, np.int32)
    rows = list[tuple[Any, Array]]()
    for t in range(length):
        row = {name: column[:, t] for name, column in columns.items()}
        ended = row["terminated"] | row["truncated"]
        received = LaneRows(
            lane=lane,
            observation=row["frame"][:, None],
            reward=row["reward"],
            terminated=row["terminated"],
            truncated=row["truncated"],
            first=row["first"],
            game_over=ended,
            lives=zeros,
        )
        rows.append((received, row["action"]))
    return rows


def encoded(chunk: Chunk, spec: ChunkSpec, *, compressed: bool) -> bytes:
    """The chunk as an actor sends it."""
    return encode_chunk(chunk, spec, codec="lz4" if compressed else "none")


def _columns() -> list[str]:
    return [field.name for field in fields(Play) if field.name != "num_actions"]


def main() -> None:
    """Plays one game and says what the play holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where plays are kept")
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    arguments = parser.parse_args()
    play = recorded(arguments.game, arguments.folder, rows=arguments.rows)
    distinct = len(np.unique(play.frame.reshape(len(play.frame), -1), axis=0))
    print(f"{arguments.game}: {len(play.action)} rows, {distinct} distinct frames, {int(play.first.sum())} episodes")


if __name__ == "__main__":
    main()
