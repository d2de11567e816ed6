"""Run folders with scores from every phase, shared by the tests of summaries, reports and figures."""

from pathlib import Path
from typing import Any

from orchestrator.reports.run_report import write_summary
from upcycle.config.run import RunConfig, TeacherConfig
from upcycle.runs.run_folder import RunFolder


def make_run(
    path: Path, *, final: float | None = 12.0, teacher: float | None = 10.0, task: str = "Pong-v5", scores: bool = True
) -> RunFolder:
    config = RunConfig.model_validate(
        {"name": path.name, "phases": ("offline", "online", "rl"), "teacher": TeacherConfig(), "env": {"task": task}}
    )
    manifest = {"id": "pong-0123abcd", "score": teacher, "store": "/somewhere/private"} if teacher is not None else None
    folder = RunFolder.create(
        path, config, preset="<demo>", versions={"torch": "2.13.0"}, teacher=manifest, random_score=-20.0
    )
    evaluations = [("offline", 0, 500, -15.0), ("online", 40_000, 2_000, 2.0), ("rl", 80_000, 4_000, 9.0)]
    for phase, frames, steps, mean in evaluations if scores else ():
        folder.append_score(score(phase, frames, steps, mean, teacher))
    if final is not None:
        folder.append_score(score("rl", 90_000, 4_500, final, teacher) | {"kind": "final"})
    folder.write_phases(
        [
            {"phase": "offline", "learner_steps": 500, "env_frames": 0, "seconds": 61.0, "wait_seconds": 1.0},
            {"phase": "online", "learner_steps": 1500, "env_frames": 50_000, "seconds": 240.0, "wait_seconds": 12.0},
        ]
    )
    return folder


def make_run_that_gives_back_an_early_version(path: Path, *, steps: int = 500, frames: int = 0) -> RunFolder:
    """As `make_run`, but its best version is an early one: by default that of the end of its offline phase."""
    folder = make_run(path, final=None)
    folder.append_score(score("online", frames, steps, 9.5, 10.0) | {"kind": "playoff"})
    folder.append_score(score("online", frames, steps, 9.1, 10.0) | {"kind": "final"})
    return folder


def score(phase: str, frames: int, steps: int, mean: float, teacher: float | None) -> dict[str, Any]:
    returns = [mean - 2.0, mean - 1.0, mean, mean + 1.0, mean + 2.0]
    normalised = None if teacher is None else (mean + 20.0) / (teacher + 20.0)
    return {
        "phase": phase, "env_frames": frames, "learner_steps": steps, "policy_version": steps // 100,
        "mean_return": mean, "normalised": normalised, "episodes": 5, "returns": returns, "kind": "evaluation",
    }  # fmt: skip


def summarised(folder: RunFolder) -> dict[str, Any]:
    return write_summary(folder, env_frames=90_000, learner_steps=4_500, samples_per_insert=8.02, wall_seconds=433.0)
