"""What the verbs about finished work print."""

import sys
from pathlib import Path

import torch

from orchestrator.baselines import Baselines
from orchestrator.cli.bars import show_bars
from orchestrator.cli.options import STOPPED
from orchestrator.cli.printing import print_json
from orchestrator.processes.evaluator import evaluate_snapshot
from orchestrator.reports.summary import Summary, plain_words, summarise
from orchestrator.run.signals import stop_on_signals
from orchestrator.run.timings import Timings, timings_table
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal


def show_summary(summary: Summary | None, path: Path, *, as_json: bool, timings: Timings | None = None) -> int:
    """Prints how a stretch of a run ended: three sentences, or the summary. None is a run stopped before its end.

    Args:
      timings: printed as well.
    Returns: the exit code, which tells the one from the other.
    """
    if timings is not None:
        print(*timings_table(timings.to_json()), sep="\n", file=sys.stderr)
    if as_json:
        print_json(summary if summary is not None else _so_far(path) | {"state": "stopped"})
    elif summary is not None:
        print(*plain_words(summary), sep="\n")
        print(f"report: {path / 'report.html'}", file=sys.stderr)
    return 0 if summary is not None else STOPPED


def _so_far(path: Path) -> Summary:
    """What is known of a run that was stopped; of one that has not begun, that."""
    return summarise(RunFolder(path)) if (path / "manifest.json").exists() else {"run_id": None}


def evaluate_run(path: Path, *, policy_version: int | None = None, episodes: int, epsilon: float, as_json: bool) -> int:
    """Plays whole games with the policy that a run gives back, or another that it keeps; writes nothing.

    Raises: UserError if the run has published no weights yet, or not this version, or the games were interrupted.
    """
    from orchestrator.teachers.publishing import find_weights  # with much that `run` does not wait for

    folder = RunFolder.open(path)
    config = folder.config
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"epsilon": epsilon})})
    (_, snapshot), stop = find_weights(folder, policy_version), StopSignal()
    torch.set_num_threads(1)
    with stop_on_signals(stop), show_bars(show=not as_json) as bars:
        record = evaluate_snapshot(
            config,
            snapshot,
            Baselines.from_manifest(folder.manifest),
            episodes=episodes,
            kind="evaluation",
            stop=stop,
            on_games=bars.games,
        )
    if record is None:
        raise UserError("run", path.name, "was not evaluated to the end", "let the games finish")
    if as_json:
        print_json(record)
        return 0
    against = "" if record["normalised"] is None else f", normalised {record['normalised']:.2f}"
    who = f"{path.name}, policy version {record['policy_version']}"
    print(f"{who}: {record['mean_return']:.2f}{against}, {episodes} games")
    return 0


def rewrite_report(path: Path, *, control: Path | None, as_json: bool) -> int:
    """Writes the report of a run and prints where it is."""
    from orchestrator.reports.run_report import write_report  # with Matplotlib, which `run` does not wait for

    written = write_report(RunFolder.open(path), control=control)
    if as_json:
        print_json({"report": str(written)})
    else:
        print(written)
    return 0
