"""Folders of small made-up runs: a teacher, its fine-tuning, a reincarnated agent and that agent from scratch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upcycle.config.io import parse_config
from upcycle.runs.run_folder import RunFolder

RANDOM = {"Pong-v5": -20.0, "Breakout-v5": 2.0}
REFERENCE = {"Pong-v5": 10.0, "Breakout-v5": 102.0}
IMPALA: dict[str, Any] = {"network": {"kind": "impala"}, "learner": {"learning_rate": 1e-4}}
SCRATCH: dict[str, Any] = {"phases": ("rl",)}
FINE_TUNED: dict[str, Any] = {
    "phases": ("rl",),
    "teacher": {"reload": "weights_and_replay"},
    "learner": {"learning_rate": 1e-5},
}
REINCARNATED: dict[str, Any] = {"phases": ("offline", "online", "rl"), "teacher": {}, **IMPALA}
CONTROL: dict[str, Any] = {"phases": ("rl",), **IMPALA, "learner": {"learning_rate": 6e-5}}


def add_run(
    runs: Path,
    name: str,
    design: dict[str, Any],
    points: Sequence[tuple[int, float]],
    *,
    game: str = "Pong-v5",
    seed: int = 0,
    teacher: float | None = None,
    final: float | None = None,
    **sections: Any,
) -> RunFolder:
    """A run whose evaluations have these (environment frames, normalised score); `teacher` and `final` likewise."""

    def raw(normalised: float) -> float:
        return RANDOM[game] + normalised * (REFERENCE[game] - RANDOM[game])

    values: dict[str, Any] = {**design, **sections, "name": name, "seed": seed}
    values["env"] = {"task": game, **values.get("env", {})}
    manifest = None if teacher is None else {"id": f"teacher-of-{game.lower()}", "score": raw(teacher)}
    if "teacher" in values:
        values["teacher"] = {"id": f"teacher-of-{game.lower()}", **values["teacher"]}
    folder = RunFolder.create(
        runs / name, parse_config(values), preset="made-up", versions={}, teacher=manifest, random_score=RANDOM[game]
    )
    if "offline" in values["phases"]:
        steps = 100 * sum(frames == 0 for frames, _ in points)
        folder.write_phases([{"phase": "offline", "learner_steps": steps, "env_frames": 0, "seconds": 1.0}])
    scores = [(frames, score, "evaluation") for frames, score in points]
    scores += [] if final is None else [(points[-1][0], final, "final")]
    for number, (frames, score, kind) in enumerate(scores):
        phase = "offline" if frames == 0 and "offline" in values["phases"] else "rl"
        folder.append_score(
            {
                "phase": phase, "env_frames": frames, "learner_steps": 100 * (number + 1), "policy_version": number,
                "mean_return": raw(score), "normalised": None, "episodes": 10, "returns": [raw(score)] * 10,
                "kind": kind,
            }
        )  # fmt: skip
    return folder


def add_workflow(runs: Path) -> list[str]:
    """Two games; three runs a game of the reincarnated agent and its control, one of the others."""
    names = list[str]()
    for index, game in enumerate(RANDOM):
        short = game[:4].lower()
        add_run(runs, f"{short}-dqn", SCRATCH, [(0, 0.0), (50_000, 0.6), (200_000, 0.9)], game=game, final=1.0)
        tuned = [(0, 1.0), (10_000, 1.2), (20_000, 1.4 + 0.1 * index)]
        add_run(runs, f"{short}-tuned", FINE_TUNED, tuned, game=game, teacher=1.0)
        names += [f"{short}-dqn", f"{short}-tuned"]
        for seed in range(3):
            shift = 0.1 * seed
            student = [(0, 0.1), (0, 0.9 + shift), (10_000 + seed, 1.2 + shift), (40_000 + seed, 1.8 + shift)]
            scratch = [(0, 0.0), (12_000, 0.1 + shift), (39_000, 0.75 + 6 * shift)]
            add_run(runs, f"{short}-student-{seed}", REINCARNATED, student, game=game, seed=seed, teacher=1.4)
            add_run(runs, f"{short}-control-{seed}", CONTROL, scratch, game=game, seed=seed)
            names += [f"{short}-student-{seed}", f"{short}-control-{seed}"]
    return names
