"""The phase machine: offline -> online -> rl, or the subset that a run has. Pure: no clock."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from upcycle.config.run import PhaseName, RunConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """The inputs that end a phase; counts are totals of the run."""

    learner_steps: int
    env_frames: int
    weaned: bool
    best_return: float | None = None


@dataclass(slots=True)
class PhaseMachine:
    """The current phase of a run, and when it began.

    Attributes:
      index: current phase in `phases`; len(phases) once all are done.
      start_learner_steps, start_env_frames: totals when the current phase began.
    """

    phases: tuple[PhaseName, ...]
    index: int = 0
    start_learner_steps: int = 0
    start_env_frames: int = 0

    @property
    def current(self) -> PhaseName | None:
        """The current phase; None at the end of the run."""
        return self.phases[self.index] if self.index < len(self.phases) else None

    @property
    def had_offline_phase(self) -> bool:
        """Whether an offline phase is finished, so that exploration starts at its final value."""
        return "offline" in self.phases[: self.index]

    def is_over(self, config: RunConfig, progress: Progress) -> bool:
        """Whether the current phase is finished. Frames alone do not finish a phase before its first update."""
        steps = progress.learner_steps - self.start_learner_steps
        if self.current == "offline":
            return steps >= config.offline.learner_steps
        frames = progress.env_frames - self.start_env_frames if steps > 0 else 0
        if self.current == "online":
            return progress.weaned or frames >= config.online.env_frames
        goal = config.rl.stop_at_return
        reached = goal is not None and progress.best_return is not None and progress.best_return >= goal
        return frames >= config.rl.env_frames or reached

    def advance(self, progress: Progress) -> None:
        """Enters the next phase.

        Raises: RuntimeError if an offline phase ends without a single update: the released QDagger code lacks this
        check, so it can do that and still report scores.
        """
        if self.current == "offline" and progress.learner_steps <= self.start_learner_steps:
            raise RuntimeError("the offline phase made no update; this is a bug, not a setting")
        self.index += 1
        self.start_learner_steps, self.start_env_frames = progress.learner_steps, progress.env_frames

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self) | {"phases": list(self.phases)}

    @classmethod
    def from_state(cls, state: dict[str, Any], phases: Sequence[PhaseName]) -> "PhaseMachine":
        """Inverse of `state_dict`. Raises: ValueError if the run's phases have changed since."""
        if state["phases"] != list(phases):
            raise ValueError(
                f"the checkpoint belongs to phases {state['phases']}, the configuration says {list(phases)}"
            )
        return cls(
            phases=tuple(phases),
            index=int(state["index"]),
            start_learner_steps=int(state["start_learner_steps"]),
            start_env_frames=int(state["start_env_frames"]),
        )
