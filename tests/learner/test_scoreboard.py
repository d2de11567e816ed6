"""Scores into multiplier and learning rate, by each schedule; and a round trip through a checkpoint."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import SummaryWriter
from typing_extensions import override

from learner.phases import PhaseMachine, Progress
from learner.scoreboard import Scoreboard
from upcycle.config.run import RunConfig
from upcycle.runs.run_folder import RunFolder


def scoreboard(tmp_path: Path, **sections: Any) -> tuple[Scoreboard, RunFolder]:
    values: dict[str, Any] = {
        "teacher": {},
        "learner": {"learning_rate": 1e-4, "final_learning_rate": 1e-5},
        "online": {"env_frames": 1000},
    }
    config = RunConfig.model_validate(values | sections)
    folder = RunFolder.create(tmp_path / "run", config)
    return Scoreboard(config, folder, SummaryWriter(write_to_disk=False)), folder


def score(normalised: float, version: int, phase: str = "online") -> dict[str, Any]:
    return {
        "phase": phase,
        "policy_version": version,
        "normalised": normalised,
        "mean_return": 10 * normalised,
        "env_frames": 0,
        "learner_steps": 100 * version,
        "kind": "evaluation",
    }


class Events(SummaryWriter):
    """Keeps what it is to draw."""

    def __init__(self) -> None:
        super().__init__(write_to_disk=False)
        self.scalars: dict[str, list[tuple[int, float]]] = defaultdict(list)

    @override
    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> None:
        self.scalars[tag].append((global_step, scalar_value))


def test_evaluations_are_drawn_over_learner_steps_and_over_frames_once_there_are_any(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"teacher": {}})
    folder, events = RunFolder.create(tmp_path / "run", config), Events()
    scores = Scoreboard(config, folder, events)
    for version, phase, frames in ((1, "offline", 0), (2, "offline", 0), (3, "online", 0), (4, "rl", 4_000)):
        folder.append_score(score(0.1 * version, version, phase) | {"env_frames": frames})
    folder.append_score(score(0.5, 2, "offline") | {"kind": "playoff"})
    folder.append_score(score(0.4, 2, "offline") | {"kind": "final"})
    scores.update("rl")
    assert events.scalars == {
        "evaluation/mean_return": [(100, 1.0), (200, 2.0), (300, pytest.approx(3.0)), (400, 4.0)],
        "evaluation/mean_return_over_frames": [(0, pytest.approx(3.0)), (4_000, 4.0)],
        "playoff/mean_return": [(200, 5.0)],
        "final/mean_return": [(200, 4.0)],
    }


def test_the_paper_s_sequence_with_its_unclipped_multiplier_and_rate(tmp_path: Path) -> None:
    scores, folder = scoreboard(tmp_path, distillation={"clip_multiplier": False})
    multipliers, rates = list[float](), list[float]()
    for version, normalised in enumerate((0.5, 0.8, -0.2, 1.05, 0.4)):
        folder.append_score(score(normalised, version))
        scores.update("online")
        multipliers.append(scores.multiplier("online", 0))
        rates.append(scores.learning_rate("online", multipliers[-1]))
    assert multipliers == pytest.approx([0.5, 0.2, 1.2, 0.0, 0.0])
    assert rates == pytest.approx([5.5e-5, 2.8e-5, 1.18e-4, 1e-5, 1e-5])
    assert scores.weaned


@pytest.mark.parametrize(
    ("schedule", "expected"), [("score", [0.6, 0.6, 0.6]), ("linear", [1.0, 0.75, 0.0]), ("constant", [1.0, 1.0, 1.0])]
)
def test_schedules(tmp_path: Path, schedule: str, expected: list[float]) -> None:
    scores, folder = scoreboard(tmp_path, distillation={"schedule": schedule})
    folder.append_score(score(0.4, 1))
    scores.update("online")
    assert [scores.multiplier("online", frames) for frames in (0, 250, 2000)] == pytest.approx(expected)
    assert (scores.multiplier("offline", 0), scores.multiplier("rl", 0), scores.multiplier(None, 0)) == (1.0, 0.0, 0.0)


def test_a_constant_teacher_is_never_weaned_off(tmp_path: Path) -> None:
    scores, folder = scoreboard(tmp_path, distillation={"schedule": "constant"})
    folder.append_score(score(1.5, 1))
    scores.update("online")
    assert not scores.weaned


def test_scores_of_other_phases_fade_nothing(tmp_path: Path) -> None:
    scores, folder = scoreboard(tmp_path)
    folder.append_score(score(2.0, 1, phase="offline"))
    scores.update("online")
    assert scores.multiplier("online", 0) == 1.0
    folder.append_score(score(0.9, 2))
    scores.update("rl")  # it comes after the phase
    assert scores.multiplier("online", 0) == 1.0


@pytest.mark.parametrize(("phases", "phase"), [(["rl"], "rl"), (["offline", "rl"], "offline")])
def test_runs_without_a_fading_teacher_keep_their_rate(tmp_path: Path, phases: list[str], phase: Any) -> None:
    scores, _ = scoreboard(tmp_path, phases=phases)
    assert scores.learning_rate(phase, scores.multiplier(phase, 0)) == 1e-4


def test_the_rate_after_pre_training_is_the_final_one(tmp_path: Path) -> None:
    scores, _ = scoreboard(tmp_path, phases=["offline", "rl"])
    assert scores.learning_rate("rl", scores.multiplier("rl", 0)) == pytest.approx(1e-5)


def test_a_restored_scoreboard_goes_on(tmp_path: Path) -> None:
    scores, folder = scoreboard(tmp_path)
    folder.append_score(score(0.25, 3))
    folder.append_score(score(0.8, 4, phase="rl"))
    scores.update("online")
    again = Scoreboard(folder.config, folder, SummaryWriter(write_to_disk=False))
    again.load_state_dict(scores.state_dict())
    folder.append_score(score(0.5, 2))  # late: an older version
    again.update("online")
    assert again.multiplier("online", 0) == 0.75
    assert again.best_return == 8.0


def test_a_best_return_of_0_is_not_taken_for_none(tmp_path: Path) -> None:
    scores, folder = scoreboard(tmp_path, phases=["rl"], rl={"stop_at_return": -1.0})
    for version, normalised in enumerate((-0.2, 0.0, -0.5)):
        folder.append_score(score(normalised, version, phase="rl"))
    scores.update("rl")
    assert scores.best_return == 0.0
    progress = Progress(learner_steps=1, env_frames=1, weaned=False, best_return=scores.best_return)
    assert PhaseMachine(("rl",)).is_over(folder.config, progress)
