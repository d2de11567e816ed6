"""What a score is measured against: the random policy at 0, the teacher at 1."""

from dataclasses import dataclass

from upcycle.run_folder import Record
from upcycle.statistics import normalised_score

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Baselines:
    """Mean raw returns under the evaluation protocol.

    Attributes:
      random: of the uniformly random policy.
      teacher: of the teacher; None in a run from scratch.
    """

    random: float
    teacher: float | None

    def normalise(self, mean_return: float) -> float | None:
        """(G - G_random) / (G_teacher - G_random), or None without a teacher."""
        if self.teacher is None:
            return None
        return round(normalised_score(mean_return, random=self.random, reference=self.teacher), _DIGITS)

    @classmethod
    def from_manifest(cls, manifest: Record) -> "Baselines":
        """As `orchestrator.plan` has written them down for the run."""
        teacher = manifest["teacher"]
        return cls(float(manifest["random_score"]), None if teacher is None else float(teacher["score"]))
