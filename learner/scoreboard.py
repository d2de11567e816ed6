"""The evaluator's scores as the learner sees them: how far the teachers have faded, and the best return so far."""

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
    """Reads scores and answers for the multiplier and the learning rate, which hang together.

    Attributes:
      best_return: of the evaluations of the rl phase, or None.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, events: SummaryWriter) -> None:
        self._config, self._folder, self._events = config, folder, events
        self._distillation = Distillation()
        self._num_seen = 0
        self.best_return: float | None = None

    def update(self, phase: PhaseName | None) -> None:
        """Takes in the scores that have come since; those of another phase than the current one fade nothing."""
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
        """A score for TensorBoard, over learner steps: the offline phase plays no frames.

        Over environment frames as well, where they tell versions apart. Games of play-offs and the final ones are of
        versions that were drawn before.
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
        """The student has reached its teacher, and that ends the online phase."""
        return self._distillation.weaned and self._config.distillation.latch

    def multiplier(self, phase: PhaseName | None, phase_env_frames: int) -> float:
        """M in force: 1 offline, 0 in the phase rl, and between them what `distillation.schedule` says."""
        if phase != "online":
            return 1.0 if phase == "offline" else 0.0
        schedule = self._config.distillation.schedule
        if schedule == "linear":
            return linear(phase_env_frames, start=1.0, end=0.0, duration=self._config.online.env_frames)
        return self._distillation.value if schedule == "score" else 1.0

    def learning_rate(self, phase: PhaseName | None, multiplier: float) -> float:
        """Tied to the multiplier after the offline phase, as in the paper; runs without a fading teacher keep one."""
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
