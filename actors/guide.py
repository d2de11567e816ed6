"""Selects the lanes in which the teacher acts. Pure: frames and rows in, a mask out, with its own generator.

Source: jump-start RL (Uchendu et al. 2022); the shrinking opening and the fading share are those of the code of
Reincarnating RL (Agarwal et al. 2022).
"""

import numpy as np

from upcycle.config.run import GuideConfig
from upcycle.experience.chunks import Array
from upcycle.schedules import linear


class Guide:
    """Selects, at each step, the lanes in which the teacher acts instead of the student.

    opening: each episode that begins during the online phase draws h from 1 to `opening_limit`, and the teacher acts in
    its first h agent steps. fading: in each step and lane the teacher acts with `teacher_probability`. It never acts
    outside the online phase; an episode under way when the phase begins is left to the student.

    Args:
      config: kind and schedule; kind "nobody" selects no lane.
      lanes: number of lanes.
      rng: draws openings and steps; equal generators and rows give equal masks.
    """

    def __init__(self, config: GuideConfig, lanes: int, rng: np.random.Generator) -> None:
        self._config, self._rng = config, rng
        self._steps_left = np.zeros(lanes, np.int64)  # that the teacher still acts in each lane's episode

    def choose(self, lane: Array, first: Array, *, phase_frames: int | None) -> Array:
        """The rows in which the teacher acts, bool [M].

        Args:
          lane: int [M], distinct lane ids.
          first: bool [M], rows that open an episode.
          phase_frames: environment frames since the online phase began; None outside it.
        """
        if phase_frames is None or self._config.kind == "nobody":
            self._steps_left[lane] = 0
            return np.zeros(len(lane), bool)
        if self._config.kind == "fading":
            return self._rng.random(len(lane)) < teacher_probability(self._config, phase_frames)
        limit = opening_limit(self._config, phase_frames)
        drawn = self._rng.integers(1, limit, len(lane), endpoint=True) if limit else np.zeros(len(lane), np.int64)
        left = np.where(first, drawn, self._steps_left[lane])
        self._steps_left[lane] = np.maximum(left - 1, 0)
        return left > 0


def opening_limit(config: GuideConfig, phase_frames: int) -> int:
    """alpha, the maximum steps of an opening: int(decay alpha) after each iteration; 0 once the student acts alone.

    Args:
      config: `opening_steps`, `opening_decay` and `iteration_frames`.
      phase_frames: environment frames since the online phase began.
    """
    limit = config.opening_steps
    for _ in range(phase_frames // config.iteration_frames):
        limit = int(config.opening_decay * limit)
        if limit == 0:
            break
    return limit


def teacher_probability(config: GuideConfig, phase_frames: int) -> float:
    """Probability that the teacher acts in a step: from 1 linearly to 0 at `fade_frames` of the online phase."""
    return linear(phase_frames, start=1.0, end=0.0, duration=config.fade_frames)
