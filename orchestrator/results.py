"""What the verbs about finished work print."""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.bars import show_bars
from orchestrator.baselines import Baselines
from orchestrator.evaluator import evaluate_snapshot
from orchestrator.signals import stop_on_signals
from orchestrator.summary import Summary, plain_words, summarise
from orchestrator.timings import timings_table
from upcycle.errors import UserError
from upcycle.run_folder import RunFolder
from upcycle.runtime import StopSignal
from upcycle.snapshots import SnapshotFolder


def show_summary(summary: Summary | None, path: Path, *, as_json: bool, with_timings: bool = False) -> int:
    """Prints how a stretch of a run ended: three sentences, or the summary. None is a run stopped before its end."""
    if with_timings and summary is not None:
        print(*timings_table(summary["timings"]), sep="\n", file=sys.stderr)
    if as_json:
        print(json.dumps(summary if summary is not None else summarise(RunFolder(path)) if path.exists() else None))
    elif summary is not None:
        print(*plain_words(summary), sep="\n")
        Console(stderr=True).print(f"report: {path / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def evaluate_run(path: Path, *, episodes: int, epsilon: float, as_json: bool) -> int:
    """Plays whole games with a run's newest policy version and prints the score; writes nothing.

    Raises: UserError if the run has published no weights yet or the games were interrupted.
    """
    folder = RunFolder.open(path)
    config = folder.config
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"epsilon": epsilon})})
    snapshots, stop = SnapshotFolder(folder.snapshots), StopSignal()
    newest = snapshots.latest()
    if newest is None:
        raise UserError("run", path.name, "has no weights yet", "wait for its first policy version")
    torch.set_num_threads(1)
    with stop_on_signals(stop), show_bars(show=not as_json) as bars:
        record = evaluate_snapshot(
            config,
            snapshots.load(newest),
            Baselines.from_manifest(folder.manifest),
            episodes=episodes,
            kind="evaluation",
            stop=stop,
            on_games=bars.games,
        )
    if record is None:
        raise UserError("run", path.name, "was not evaluated to the end", "let the games finish")
    if as_json:
        print(json.dumps(record))
        return 0
    against = "" if record["normalised"] is None else f", normalised {record['normalised']:.2f}"
    who = f"{path.name}, policy version {record['policy_version']}"
    print(f"{who}: {record['mean_return']:.2f}{against}, {episodes} games")
    return 0


def rewrite_report(path: Path, *, control: Path | None, as_json: bool) -> int:
    """Writes the report of a run and prints where it is."""
    from orchestrator.report import write_report  # with Matplotlib, which `run` does not wait for

    written = write_report(RunFolder.open(path), control=control)
    print(json.dumps({"report": str(written)}) if as_json else written)
    return 0
