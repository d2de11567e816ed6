"""The natural end of a run: the final evaluation, with the machine to itself, then summary and report."""

import os
from pathlib import Path
from typing import Final, Literal

import torch

from orchestrator.baselines import Baselines
from orchestrator.processes.evaluator import evaluate_snapshot
from orchestrator.reports.summary import Summary, save_summary, write_summary
from orchestrator.run.driver import Outcome
from orchestrator.run.progress import Progress, View
from orchestrator.run.timings import Timings
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import Games, StopSignal
from upcycle.runs.snapshots import Snapshot, SnapshotFolder, read_snapshot

_CONTROLS: Final = Path(__file__).resolve().parents[2] / "deploy" / "controls"
"""Summaries of shipped presets trained from scratch, by preset: what their students are drawn against."""


def final_evaluation(folder: RunFolder, view: View, stop: StopSignal) -> Record | None:
    """Scores the policy version that the run gives back over `evaluation.final_episodes` games, and appends the score.

    Where there are several finalists, each plays so many games first, and the winner becomes the run's best version.
    Choosing and scoring are kept apart: the final games are others than those that a version was chosen by.

    Returns: the score, or None if `stop` was set before it was complete.
    Raises: CorruptDataError if the weights are damaged.
    """
    torch.set_num_threads(1)
    snapshots = SnapshotFolder(folder.snapshots)
    finalists = snapshots.finalists()
    if len(finalists) > 1:
        candidates = {version: read_snapshot(path) for version, path in finalists.items()}
        returns = dict[int, float]()
        for number, (version, candidate) in enumerate(candidates.items(), start=1):
            record = _play(folder, candidate, "playoff", f"play-off {number} of {len(candidates)}", view, stop)
            if record is None:
                return None
            returns[version] = float(record["mean_return"])
        snapshots.keep_best(candidates[max(returns, key=lambda version: (returns[version], version))])
    return _play(folder, _result(snapshots), "final", "final evaluation", view, stop)


def _play(
    folder: RunFolder, snapshot: Snapshot, kind: Literal["playoff", "final"], title: str, view: View, stop: StopSignal
) -> Record | None:
    config, baselines = folder.config, Baselines.from_manifest(folder.manifest)
    episodes = config.evaluation.final_episodes
    detail = f"{title}, policy version {snapshot.metadata['policy_version']}"
    status = folder.statuses().get("driver-0", {})  # of the whole run, which this version may be an early one of
    told = {name: value for name, value in status.items() if name not in ("pid", "time")}  # those are of each heartbeat

    def show(games: Games) -> None:
        progress = Progress(
            "evaluation",
            games.ended / episodes,
            env_frames=int(status.get("env_frames", 0)),
            learner_steps=int(status.get("learner_steps", 0)),
            restarts=int(status.get("restarts", 0)),
            teacher_return=baselines.teacher,
            detail=detail,
            games=games,
        )
        view.show(progress)
        folder.write_status("driver", 0, {**told, **progress.to_json(), "processes": {}})

    view.say(f"{detail}: {episodes} games")
    show(Games(0, episodes))
    record = evaluate_snapshot(
        config,
        snapshot,
        baselines,
        episodes=episodes,
        kind=kind,
        stop=stop,
        threads=os.cpu_count() or 1,  # nothing else runs by now
        on_games=show,
    )
    if record is not None:
        folder.append_score(record)
    return record


def _result(snapshots: SnapshotFolder) -> Snapshot:
    """The policy that the run gives back: the best one, or the newest if none was evaluated."""
    best = snapshots.best()
    if best is not None:
        return read_snapshot(best)
    newest = snapshots.latest()
    assert newest is not None, "a learner publishes before it finishes"
    return snapshots.load(newest)


def write_results(folder: RunFolder, outcome: Outcome, timings: Timings | None = None) -> Summary:
    """Writes `report.html` and `summary.json`, timings included. Raises: UserError if the disk is full."""
    timings = timings or Timings()
    summary = write_summary(
        folder,
        env_frames=outcome.env_frames,
        learner_steps=outcome.learner_steps,
        samples_per_insert=outcome.samples_per_insert,
        wall_seconds=float(folder.manifest.get("wall_seconds", 0.0)),
    )
    control = _CONTROLS / f"{folder.manifest['preset']}.json"
    with timings.step("report"):
        from orchestrator.reports.run_report import write_report  # with Matplotlib, which no start waits for

        write_report(folder, control=control if control.exists() and summary["teacher"] is not None else None)
    return save_summary(folder, summary | {"timings": timings.to_json()})
