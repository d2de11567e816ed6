"""Replay systems on the same workload, in one run: `make bench-peers`, or `python -m benchmarks.peers --seconds 1`.

Needs the environment of `benchmarks/peers/requirements.txt` beside ours. Every system is a process (and its servers)
that is filled, then measures one window at a time, in turn with all others. The table and the picture go to
`docs/results/replay.md` and `replay.png`; what stands in the page outside the comparison is left alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import Disturbance, interleaved
from benchmarks.peers import goals, report
from benchmarks.peers.frame_log import BATCH_SIZES
from benchmarks.workers import PEERS_PYTHON, ROOT, Worker, python_module
from benchmarks.workload import GAMES, Game, place_of, recorded
from upcycle.files import write_atomically

_OPERATIONS: Final = ("insert", "act", *(f"{name}/{size}" for name in ("sample", "update") for size in BATCH_SIZES))
_PLOTTED: Final = "sample/512"


_KEPT_HEAP: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
}
"""What `upcycle.runs.runtime.keep_heap` does, as variables of glibc."""


@dataclass(frozen=True, slots=True)
class System:
    """One contestant.

    Attributes:
      name: in the table.
      adapter, variant: what runs it, and how.
      kept_heap: whether its process keeps freed memory, as ours does. Each system has what it is faster with: buffers
        in the client's process gain up to three times, Reverb loses as much.
    """

    name: str
    adapter: str
    variant: str
    kept_heap: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is this repository's."""
        return self.adapter == "upcycle_adapter"

    def command(self, play: Path, stored: int) -> list[str]:
        """What starts its adapter."""
        python = sys.executable if self.ours else str(PEERS_PYTHON)
        module = f"benchmarks.peers.adapters.{self.adapter}"
        return python_module(module, str(play.absolute()), str(stored), self.variant, python=python)


SYSTEMS: Final = (
    System("Upcycle, shared memory", "upcycle_adapter", "raw/shared_memory"),
    System("Upcycle, TCP", "upcycle_adapter", "warm/tcp"),
    System("Upcycle, warm", "upcycle_adapter", "warm/unix"),
    System("Upcycle, cold", "upcycle_adapter", "cold/unix"),
    System("Reverb", "reverb_adapter", "chunk8"),
    System("cpprb, full stacks", "cpprb_adapter", "full", kept_heap=True),
    System("cpprb, compressed", "cpprb_adapter", "compressed", kept_heap=True),
    System("torchrl, full stacks", "torchrl_adapter", "full", kept_heap=True),
    System("torchrl, slices", "torchrl_adapter", "slices", kept_heap=True),
)


def compare(
    systems: Sequence[System], play: Path, *, stored: int, rounds: int, seconds: float, errors: Path
) -> list[report.Result]:
    """Fills all systems one after the other, then measures them in turn."""
    with ExitStack() as stack:
        workers = dict[System, Worker]()
        for system in systems:
            environment = _KEPT_HEAP if system.kept_heap else {}
            worker = Worker(system.command(play, stored), errors=errors, environment=environment)
            stack.enter_context(worker)
            workers[system] = worker.wait_until_ready()
            print(f"  {system.name} is ready", file=sys.stderr)
        windows = {
            (system, operation): partial(worker.measure, operation)
            for operation in _OPERATIONS
            for system, worker in workers.items()
            if operation in worker.facts["operations"]
        }
        rates = interleaved(windows, rounds=rounds, seconds=seconds)
        results = list[report.Result]()
        for system, worker in workers.items():
            mine = {operation: found for (owner, operation), found in rates.items() if owner == system}
            results.append(report.Result(system.name, system.ours, worker.facts, mine))
        return results


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", choices=list(GAMES), nargs="+", default=list(GAMES))
    parser.add_argument("--seconds", type=float, default=1.5, help="of a window (default 1.5)")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each figure (default 5)")
    parser.add_argument("--stored", type=int, default=100_000)
    parser.add_argument("--workload", type=Path, help="folder in which plays are kept (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the page")
    arguments = parser.parse_args()
    if not PEERS_PYTHON.exists():
        parser.error(f"{PEERS_PYTHON} does not exist: run make bench-peers, which makes it")
    games: list[Game] = arguments.games
    disturbance, results = Disturbance(), dict[str, list[report.Result]]()
    with tempfile.TemporaryDirectory(prefix="upcycle-peers-") as scratch:
        folder = arguments.workload or Path(scratch)
        for game in games:
            recorded(game, folder)
            print(GAMES[game], file=sys.stderr)
            results[GAMES[game].removesuffix("-v5")] = compare(
                SYSTEMS,
                place_of(game, folder),
                stored=arguments.stored,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                errors=Path(scratch) / "errors.txt",
            )
    # The folders are this machine's own and change no figure.
    command = f"python -m benchmarks.peers --seconds {arguments.seconds:g} --rounds {arguments.rounds}"
    command += f" --stored {arguments.stored} --games {' '.join(games)}"
    text = report.body(
        results,
        _OPERATIONS,
        command=command,
        stored=arguments.stored,
        other_cores=disturbance.cores(),
        goals=goals.table(results),
    )
    page: Path = arguments.output / "replay.md"
    arguments.output.mkdir(parents=True, exist_ok=True)
    old = page.read_text(encoding="utf-8") if page.exists() else "# Replay, measured\n"
    write_atomically(page, report.section(old, text).encode())
    write_atomically(arguments.output / "replay.png", report.figure(results, _PLOTTED))
    print(text)


if __name__ == "__main__":
    main()
