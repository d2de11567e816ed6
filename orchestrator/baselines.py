"""What a score is measured against: the random policy at 0, the teacher at 1."""

from dataclasses import dataclass

from upcycle.runs.run_folder import Record
from upcycle.statistics import normalised_score

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Baselines:
    """Mean raw returns under the evaluation protocol.

    Attributes:
      random: of the uniformly random policy.
      teacher: of the teacher, the best of several; None in a run from scratch.
    """

    random: float
    teacher: float | None

    def normalise(self, mean_return: float) -> float | None:
        """(G - G_random) / (G_teacher - G_random), or None without a teacher, or with one that plays as random."""
        if self.teacher is None or self.teacher == self.random:
            return None
        return round(normalised_score(mean_return, random=self.random, reference=self.teacher), _DIGITS)

    @classmethod
    def from_manifest(cls, manifest: Record) -> "Baselines":
        """As `orchestrator.run.preparation` has written them down for the run."""
        teacher = manifest["teacher"]
        return cls(float(manifest["random_score"]), None if teacher is None else float(teacher["score"]))


def teachers_of(manifest: Record) -> list[Record]:
    """The manifest's teachers, in the order of the configuration; runs of old name one at the most."""
    only = manifest.get("teacher")
    return list(manifest.get("teachers", [] if only is None else [only]))


def encoder_of(manifest: Record) -> Record:
    """What the manifest says of the encoder that the run began with; empty if there was none."""
    return manifest.get("encoder") or {}


def parents_of(manifest: Record) -> tuple[str, ...]:
    """Ids of the run's teachers, and of the one whose encoder it began with, each once."""
    named = [str(known["id"]) for known in [*teachers_of(manifest), encoder_of(manifest)] if known.get("id")]
    return tuple(dict.fromkeys(named))
