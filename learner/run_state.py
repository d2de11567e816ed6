"""The state of a run apart from tensors: phase, frames, scores, and the orders that follow from them."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from learner.frame_counter import FrameCounter
from learner.phases import PhaseMachine, Progress
from learner.ranks import Order, Verdict
from learner.scoreboard import Scoreboard
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import ReplayTimeout
from upcycle.config.run import PhaseName, RunConfig
from upcycle.experience.log_trimming import count_logged

_log = structlog.get_logger(__name__)


class RunState:
    """Phase, environment frames and scores of a run. `TrainState` counts the learner steps, so callers pass them.

    Attributes:
      records: one for each finished phase, in the form of `RunFolder.write_phases`.
    """

    def __init__(self, config: RunConfig, scores: Scoreboard, *, frame_skip: int) -> None:
        self._config, self._scores = config, scores
        self._phases, self._frames = PhaseMachine(config.phases), FrameCounter(frame_skip=frame_skip)
        self.records: list[dict[str, Any]] = []

    @property
    def phase(self) -> PhaseName | None:
        """The current phase; None at the end of the run."""
        return self._phases.current

    @property
    def env_frames(self) -> int:
        """Environment frames of the run so far."""
        return self._frames.total

    @property
    def phase_env_frames(self) -> int:
        """Environment frames of the current phase so far."""
        return max(self._frames.total - self._phases.start_env_frames, 0)  # a power cut may lose logged frames

    @property
    def multiplier(self) -> float:
        """The current multiplier of the imitation terms."""
        return self._scores.multiplier(self.phase, self.phase_env_frames)

    def phase_learner_steps(self, learner_steps: int) -> int:
        """Learner steps of the current phase so far."""
        return learner_steps - self._phases.start_learner_steps

    def counters(self, learner_steps: int) -> dict[str, int]:
        """The counters that snapshots and checkpoints carry."""
        return {"learner_steps": learner_steps, "env_frames": self.env_frames}

    def metadata(self, learner_steps: int) -> dict[str, object]:
        """What actors and the evaluator need to know about the current weights."""
        return {
            **self.counters(learner_steps),
            "phase": self.phase or "done",
            "phase_env_frames": self.phase_env_frames,
            "epsilon_done": int(self._phases.had_offline_phase),
        }

    def count_logged_frames(self, experience: Path) -> None:
        """Counts the frames in the run's experience logs, which also know those of shards that have left.

        Raises: CorruptDataError if a log is damaged.
        """
        if self._config.replay.log_experience:
            self._frames.adopt(count_logged(experience))

    def count_frames(self, replay: ShardedReplay) -> None:
        """Counts the frames that have arrived at the shards."""
        with suppress(ReplayTimeout):  # no shard answers: the supervisor restarts them, and the count catches up
            self._frames.observe(replay.stats("online").shards)

    def update(self, replay: ShardedReplay) -> None:
        """Counts frames and reads new scores."""
        self.count_frames(replay)
        self._scores.update(self.phase)

    def order(self, learner_steps: int, *, stop: bool, checkpoint_due: float) -> Order:
        """What this rank wants to happen next.

        Args:
          checkpoint_due: monotonic seconds at which the next checkpoint is due.
        """
        verdict = Verdict.STOP if stop else Verdict.CONTINUE
        if not stop and self._phases.is_over(self._config, self._progress(learner_steps)):
            verdict = Verdict.END_PHASE
        multiplier = self.multiplier
        rate = self._scores.learning_rate(self.phase, multiplier)
        return Order(verdict, multiplier, rate, checkpoint=time.monotonic() >= checkpoint_due)

    def end_phase(self, learner_steps: int, **record: object) -> None:
        """Enters the next phase; `record` is added to the record of this one. Raises: as `PhaseMachine.advance`."""
        ended = {
            "phase": self.phase,
            "learner_steps": self.phase_learner_steps(learner_steps),
            "env_frames": self.phase_env_frames,
            "distillation_multiplier": self.multiplier,
            **record,
        }
        self._phases.advance(self._progress(learner_steps))
        self.records.append(ended)
        _log.info("phase_ended", **ended)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "phases": self._phases.state_dict(),
            "records": self.records,
            "scores": self._scores.state_dict(),
            "frames": self._frames.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError if the run's phases have changed since."""
        self._phases = PhaseMachine.from_state(state["phases"], self._config.phases)
        self.records = state["records"]
        self._scores.load_state_dict(state["scores"])
        self._frames.load_state_dict(state["frames"])

    def _progress(self, learner_steps: int) -> Progress:
        return Progress(
            learner_steps=learner_steps,
            env_frames=self.env_frames,
            weaned=self._scores.weaned,
            best_return=self._scores.best_return,
        )
