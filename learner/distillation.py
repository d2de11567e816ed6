"""The distillation multiplier: the weight that the teacher still has.

Pure, driven by the evaluator's scores. One value for the whole run, tied to the policy version that earned it.
Source: Agarwal et al. 2022 (arXiv 2206.01626), section 4, with the random-score baseline of the released code.
"""

from dataclasses import dataclass

from upcycle.errors import UserError


def check_teacher(name: str, *, teacher_score: float, random_score: float, tolerance: float) -> None:
    """Raises UserError unless the teacher of that name is above the random policy by more than `tolerance`."""
    if not teacher_score > random_score + tolerance:
        raise UserError(
            "teacher.id",
            name,
            f"its score {teacher_score:g} is not above the random policy's ({random_score:g}, tolerance {tolerance:g})",
            "choose a better teacher, train from scratch with --set phases=rl, or set teacher.accept_any=true",
        )


def multiplier(student_score: float, *, clip: bool = True) -> float:
    """The multiplier max(1 - z, 0); `clip` also limits it to 1, which the paper's code does not."""
    value = max(1.0 - student_score, 0.0)
    return min(value, 1.0) if clip else value


@dataclass(slots=True)
class Distillation:
    """The multiplier and the scores behind it.

    Attributes:
      value: the current m; 1 until the first evaluation of the online phase.
      score: exponential average of the student's normalised scores, starting at 0, the score of random play.
      policy_version: newest version whose score was applied; late scores of older versions are ignored.
      weaned: whether the student has reached its teacher; with a latch, m stays 0 from then on.
    """

    value: float = 1.0
    score: float = 0.0
    policy_version: int = -1
    weaned: bool = False

    def observe(
        self, student_score: float, policy_version: int, *, latch: bool, clip: bool = True, smoothing: float = 0.0
    ) -> bool:
        """Applies one evaluation of the online phase; returns whether it was newer than the last.

        Args:
          smoothing: weight of the earlier evaluations in the average score, in [0, 1).
        """
        if policy_version <= self.policy_version:
            return False
        self.policy_version = policy_version
        self.score = smoothing * self.score + (1.0 - smoothing) * student_score
        self.value = 0.0 if latch and self.weaned else multiplier(self.score, clip=clip)
        self.weaned = self.weaned or self.value == 0.0
        return True


def learning_rate(distillation_multiplier: float, *, initial: float, final: float) -> float:
    """The rate m * initial + (1 - m) * final, as in the paper's code."""
    return distillation_multiplier * initial + (1.0 - distillation_multiplier) * final
