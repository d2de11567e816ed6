"""The phase machine: offline -> online -> rl, whichever of them the run has. Pure state, no clock."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from upcycle.config.run import PhaseName, RunConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """What a phase's end depends on; all counts are totals of the run."""

    learner_steps: int
    env_frames: int
    weaned: bool
    best_return: float | None = None


@dataclass(slots=True)
class PhaseMachine:
    """Where the run stands in its phases.

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
        """The phase that runs now, or None at the end of the run."""
        return self.phases[self.index] if self.index < len(self.phases) else None

    @property
    def had_offline_phase(self) -> bool:
        """An offline phase lies behind: exploration starts at its final value."""
        return "offline" in self.phases[: self.index]

    def is_over(self, config: RunConfig, progress: Progress) -> bool:
        """Whether the current phase has done what it is for. No phase is over for its frames before an update."""
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

        Raises: RuntimeError if an offline phase ends without a single update: the released QDagger code did just that
        for lack of this check, and reported scores all the same.
        """
        if self.current == "offline" and progress.learner_steps <= self.start_learner_steps:
            raise RuntimeError("the offline phase made no update; this is a defect, not a setting")
        self.index += 1
        self.start_learner_steps, self.start_env_frames = progress.learner_steps, progress.env_frames

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self) | {"phases": list(self.phases)}

    @classmethod
    def from_state(cls, state: dict[str, Any], phases: Sequence[PhaseName]) -> "PhaseMachine":
        """Goes on where `state_dict` left off. Raises ValueError if the run's phases have changed since."""
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
