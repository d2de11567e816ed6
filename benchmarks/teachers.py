"""Bringing a teacher's buffer in at full scale: `python -m benchmarks.teachers --json`.

A Dopamine replay log of real EnvPool frames, made by `benchmarks.replay_log`, is imported by `upcycle teacher import`
in a process of its own, and shards are seeded from the log that came of it:

import_transitions_per_s        from when the import begins to write until the command has ended: what comes before is
                                the start of Python and its libraries; command_transitions_per_s is of the whole
import_peak_rss_mb              its highest resident memory, with that of its children
bytes_per_transition            of the log on disk
codec_limit_transitions_per_s   compressing the same chunks, from frames in memory to records, on all cores, with
                                nothing else to do; zstd_limit_transitions_per_s is what zstd alone takes of it
seed_transitions_per_s          of all shards together, with the most shards, tier raw; `seeding` has the others, and
                                the bounds

These are of `--game`; `games` has them for each game. A small import is killed half way, given again, and compared.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.measure import Disturbance, Rate, timed
from benchmarks.replay_log import SIZE, recorded_log
from benchmarks.seeding import seed_figures
from benchmarks.teachers_page import page
from benchmarks.workers import ROOT
from replay_service.table.types import Tier
from teacher_store.store.store import TeacherStore
from upcycle.experience.chunks import Chunk, decode_chunk, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.log_segment import compress_chunk
from upcycle.streams import leavable_streams

GAMES: Final = {"pong": "Pong-v5", "breakout": "Breakout-v5"}
_NAME: Final = "imported"
_SHARDS: Final = (1, 2, 4)
TIERS: Final[tuple[Tier, ...]] = ("raw", "warm")
_CODEC_CHUNKS: Final = 384  # some 200 MB of frames, from all over the log
_CODEC_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02
_TIMEOUT_SECONDS: Final = 7200.0


@dataclass(frozen=True, slots=True)
class Import:
    """What an import took.

    Attributes:
      command_seconds: from its start to its end.
      seconds, cpu_seconds: without what came before it began to write; of all threads.
      peak_mb: of its resident memory.
      killed: whether it was.
    """

    command_seconds: float
    seconds: float
    cpu_seconds: float
    peak_mb: float
    killed: bool


def import_log(source: Path, store: Path, task: str, *, watch: Callable[[], bool] = lambda: True) -> Import:
    """Gives the import as a user would.

    Args:
      watch: asked all the time; False kills the import with SIGKILL.
    """
    command = [sys.executable, "-m", "orchestrator.cli", "teacher", "import", str(source), "--name", _NAME]
    command += ["--task", task, "--set", f"env.frame_size={SIZE}", "--json"]
    environment = os.environ | {"UPCYCLE_TEACHERS": str(store)}
    start, before, peaks = time.perf_counter(), _children_cpu_seconds(), dict[int, int]()
    began = spent = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as process:
        while process.poll() is None:
            _note_peaks(process.pid, peaks)
            if not began and any(store.rglob("importing-*/log")):
                began, spent = time.perf_counter(), _cpu_seconds(process.pid)
            if not watch():
                process.kill()
                break
            if time.perf_counter() - start > _TIMEOUT_SECONDS:
                process.kill()
                raise TimeoutError(f"{' '.join(command)} took over {_TIMEOUT_SECONDS} s")
            time.sleep(_POLL_SECONDS)
        ended = time.perf_counter()
    if process.returncode > 0:
        raise RuntimeError(f"{' '.join(command)} failed; its reason is above")
    cpu_seconds = _children_cpu_seconds() - before - spent
    return Import(ended - start, ended - began, cpu_seconds, sum(peaks.values()) / 1000, process.returncode < 0)


def _cpu_seconds(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def _children_cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _note_peaks(pid: int, peaks: dict[int, int]) -> None:
    """Keeps the highest resident memory, in kB, of a process and its descendants, as far as they are there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return
    peaks[pid] = max([peaks.get(pid, 0), *(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))])
    for child in children:
        _note_peaks(int(child), peaks)


def codec_rates(log: Path) -> tuple[Rate, Rate]:
    """Chunks in memory made records of a log on all cores: encoding and compression, and zstd's part of it alone."""
    reader = ExperienceLogReader.open(log)
    step = max(reader.num_chunks // _CODEC_CHUNKS, 1)
    encoded = [reader.read(index) for index in range(0, reader.num_chunks, step)][:_CODEC_CHUNKS]
    chunks = [decode_chunk(data, reader.spec) for data in encoded]
    transitions = sum(chunk.num_transitions(reader.spec) for chunk in chunks)

    def make_record(chunk: Chunk) -> None:
        compress_chunk(encode_chunk(chunk, reader.spec))

    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def all_chunks() -> int:
            list(pool.map(make_record, chunks))
            return transitions

        def all_encoded() -> int:
            list(pool.map(compress_chunk, encoded))
            return transitions

        all_chunks()
        return timed(all_chunks, seconds=_CODEC_SECONDS), timed(all_encoded, seconds=_CODEC_SECONDS)


def killed_and_resumed(source: Path, task: str, folder: Path) -> bool:
    """Whether an import that is killed half way and given again writes the same chunks as an undisturbed one."""
    import_log(source, folder / "whole", task)
    wanted = _chunks(folder / "whole")
    half = sum(path.stat().st_size for path in _log(folder / "whole").glob("segment-*.log")) // 2

    def is_below_half() -> bool:
        written = (folder / "killed").rglob("importing-*/log/segment-*.log")
        return sum(path.stat().st_size for path in written) < half

    if not import_log(source, folder / "killed", task, watch=is_below_half).killed:
        raise RuntimeError("the import was done before it could be killed")
    import_log(source, folder / "killed", task)
    return _chunks(folder / "killed") == wanted


def _log(store: Path) -> Path:
    teachers = TeacherStore(store)
    return teachers.log_directory(teachers.get(_NAME))


def _chunks(store: Path) -> list[bytes]:
    return list(ExperienceLogReader.open(_log(store)).iterate())


def measure(
    game: str, workload: Path, folder: Path, *, transitions: int, played: int, seeded: int, killed: int
) -> dict[str, Any]:
    """All figures of one game."""
    task = GAMES[game]
    source = recorded_log(task, workload, transitions=transitions, played=played)
    print(f"{game}: importing {source}", file=sys.stderr)
    store = folder / game
    small_source = recorded_log(task, workload, transitions=killed, played=killed)
    is_alike = killed_and_resumed(small_source, task, folder / f"{game}-killed")
    imported = import_log(source, store, task)
    log = _log(store)
    reader = ExperienceLogReader.open(log)
    codec, zstd = codec_rates(log)
    rate, cpu = reader.num_transitions / imported.seconds, imported.cpu_seconds / reader.num_transitions
    num_bytes = sum(path.stat().st_size for path in log.iterdir())
    newest = min(seeded, reader.num_transitions)
    seeding = list[dict[str, Any]]()
    for tier in TIERS:
        for shards in _SHARDS:
            print(f"{game}: seeding {shards} shards, {tier}", file=sys.stderr)
            seeding.append(seed_figures(log, shards=shards, newest=newest, tier=tier))
    return {
        "transitions": reader.num_transitions,
        "import_transitions_per_s": round(rate),
        "import_peak_rss_mb": round(imported.peak_mb),
        "bytes_per_transition": round(num_bytes / reader.num_transitions, 1),
        "seed_transitions_per_s": seeding[len(_SHARDS) - 1]["transitions_per_s"],
        "codec_limit_transitions_per_s": round(codec.items_per_s),
        "zstd_limit_transitions_per_s": round(zstd.items_per_s),
        "import_of_codec_limit": round(rate / codec.items_per_s, 2),
        "import_cpu_us_per_transition": round(1e6 * cpu, 2),
        "codec_cpu_us_per_transition": round(codec.client_us, 2),
        "zstd_cpu_us_per_transition": round(zstd.client_us, 2),
        "source_bytes": sum(path.stat().st_size for path in source.glob("*.gz")),
        "seeding": seeding,
        "command_transitions_per_s": round(reader.num_transitions / imported.command_seconds),
        "resumed_after_kill_alike": is_alike,
    }


def main() -> None:
    """Prints one JSON line, or a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=list(GAMES), default="pong", help="whose figures stand at the top")
    parser.add_argument("--only", action="store_true", help="leave the other game out")
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--played", type=int, help="different ones of them, repeated (default: all)")
    parser.add_argument("--seeded", type=int, default=500_000, help="transitions to seed at the most")
    parser.add_argument("--killed", type=int, default=50_000, help="transitions of the import that is killed")
    parser.add_argument("--workload", type=Path, help="folder in which replay logs are kept (default: a temporary one)")
    parser.add_argument("--results", type=Path, help="folder to write teachers.md and teachers.json to")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    arguments = parser.parse_args()
    played = min(arguments.played or arguments.transitions, arguments.transitions)
    disturbance = Disturbance()
    games = [arguments.game] if arguments.only else list(GAMES)
    with tempfile.TemporaryDirectory(prefix="upcycle-teachers-") as scratch:
        found = {
            game: measure(
                game,
                arguments.workload or Path(scratch) / "logs",
                Path(scratch),
                transitions=arguments.transitions,
                played=played,
                seeded=arguments.seeded,
                killed=min(arguments.killed, arguments.transitions),
            )
            for game in games
        }
    top = {name: value for name, value in found[arguments.game].items() if name != "seeding"}
    values = {
        "game": arguments.game,
        **top,
        "played": played,
        "seeded": arguments.seeded,
        "games": found,
    }
    values["other_cores"] = round(disturbance.cores(), 2)
    shown = page(values, "python -m benchmarks.teachers " + " ".join(sys.argv[1:]))
    if arguments.results is not None:
        (arguments.results / "teachers.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        (arguments.results / "teachers.md").write_text(shown, encoding="utf-8")
    print(json.dumps(values) if arguments.json else shown)


if __name__ == "__main__":
    with leavable_streams():
        main()
