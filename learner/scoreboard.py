"""The evaluator's scores, and what the learner derives from them: multiplier, learning rate, best return."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog
from tensorboardX import SummaryWriter

from learner.distillation import Distillation, learning_rate
from upcycle.config.run import PhaseName, RunConfig
from upcycle.runs.run_folder import RunFolder
from upcycle.schedules import linear

_log = structlog.get_logger(__name__)


class Scoreboard:
    """Reads new scores; computes the multiplier and the learning rate that depends on it.

    Attributes:
      best_return: best mean return of the rl phase, or None.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, events: SummaryWriter) -> None:
        self._config, self._folder, self._events = config, folder, events
        self._distillation = Distillation()
        self._num_seen = 0
        self.best_return: float | None = None

    def update(self, phase: PhaseName | None) -> None:
        """Reads new scores; only those of a current online phase change the multiplier."""
        scores, options = self._folder.scores(), self._config.distillation
        for record in scores[self._num_seen :]:
            mean_return, version = float(record["mean_return"]), int(record["policy_version"])
            self._draw(record)
            if record["phase"] == "rl":
                self.best_return = mean_return if self.best_return is None else max(mean_return, self.best_return)
            if not record["phase"] == phase == "online" or record["normalised"] is None:
                continue
            if options.schedule == "score" and self._distillation.observe(
                float(record["normalised"]),
                version,
                latch=options.latch,
                clip=options.clip_multiplier,
                smoothing=options.score_smoothing,
            ):
                _log.info("multiplier", value=self._distillation.value, policy_version=version)
        self._num_seen = len(scores)

    def _draw(self, record: Mapping[str, Any]) -> None:
        """Draws a score over learner steps, since the offline phase plays no frames.

        Evaluations after it are drawn over environment frames too; play-offs and the final one repeat earlier versions.
        """
        steps, frames = int(record["learner_steps"]), int(record["env_frames"])
        if record["kind"] == "evaluation":
            self._events.add_scalar("evaluation/mean_return", float(record["mean_return"]), steps)
            if record["phase"] != "offline":
                self._events.add_scalar("evaluation/mean_return_over_frames", float(record["mean_return"]), frames)
        else:
            self._events.add_scalar(f"{record['kind']}/mean_return", float(record["mean_return"]), steps)

    @property
    def weaned(self) -> bool:
        """Whether the student has reached its teacher, which ends the online phase."""
        return self._distillation.weaned and self._config.distillation.latch

    def multiplier(self, phase: PhaseName | None, phase_env_frames: int) -> float:
        """The current multiplier: 1 offline, by `distillation.schedule` online, 0 in the rl phase."""
        if phase != "online":
            return 1.0 if phase == "offline" else 0.0
        schedule = self._config.distillation.schedule
        if schedule == "linear":
            return linear(phase_env_frames, start=1.0, end=0.0, duration=self._config.online.env_frames)
        return self._distillation.value if schedule == "score" else 1.0

    def learning_rate(self, phase: PhaseName | None, multiplier: float) -> float:
        """Follows the multiplier after the offline phase, as in the paper; constant in runs without a teacher."""
        initial, final = self._config.learner.learning_rate, self._config.learner.final_learning_rate
        if final is None or phase == "offline" or not set(self._config.phases) & {"offline", "online"}:
            return initial
        return learning_rate(multiplier, initial=initial, final=final)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "distillation": asdict(self._distillation),
            "seen_scores": self._num_seen,
            "best_return": self.best_return,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._distillation = Distillation(**state["distillation"])
        self._num_seen, self.best_return = state["seen_scores"], state["best_return"]
