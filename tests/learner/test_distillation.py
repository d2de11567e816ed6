"""The distillation multiplier: golden schedule, negative returns, latch, order of evaluations."""

import pytest

from learner.distillation import Distillation, check_teacher, learning_rate, multiplier
from upcycle.errors import UserError
from upcycle.statistics import normalised_score


def test_the_golden_schedule_of_the_released_code() -> None:
    distillation, values, rates = Distillation(), list[float](), list[float]()
    for version, score in enumerate((0.5, 0.8, -0.2, 1.05, 0.4)):
        distillation.observe(score, version, latch=True, clip=False)
        values.append(distillation.value)
        rates.append(learning_rate(distillation.value, initial=1e-4, final=1e-5))
    assert values == pytest.approx([0.5, 0.2, 1.2, 0.0, 0.0])
    assert rates == pytest.approx([5.5e-5, 2.8e-5, 1.18e-4, 1e-5, 1e-5])


@pytest.mark.parametrize(("score", "expected"), [(-0.2, 1.0), (0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (1.3, 0.0)])
def test_the_product_rule_stays_within_0_and_1(score: float, expected: float) -> None:
    assert multiplier(score) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (19.7, -21.0, 1.01),
        (19.7, -10.0, 0.74),
        (19.7, 0.0, 0.49),
        (-10.0, -15.0, 0.47),
        (-10.0, -5.0, 0.0),
        (0.0, -10.35, 0.5),
    ],
)
def test_negative_returns_keep_their_sign(teacher: float, student: float, expected: float) -> None:
    """1 - G / G_T, as other implementations have it, inverts its sign or divides by zero in these rows (Pong)."""
    score = normalised_score(student, reference=teacher, random=-20.7)
    assert multiplier(score, clip=False) == pytest.approx(expected, abs=0.01)


def test_without_a_latch_the_teacher_comes_back() -> None:
    distillation = Distillation()
    distillation.observe(1.1, 1, latch=False)
    distillation.observe(0.6, 2, latch=False)
    assert distillation.value == pytest.approx(0.4)


def test_late_evaluations_are_ignored() -> None:
    distillation = Distillation()
    assert distillation.observe(0.5, 7, latch=True)
    assert not distillation.observe(1.5, 6, latch=True)
    assert (distillation.value, distillation.weaned) == (0.5, False)


@pytest.mark.parametrize(("teacher", "tolerance"), [(-20.7, 0.0), (-21.0, 0.0), (-20.0, 1.0)])
def test_a_teacher_not_above_random_is_refused(teacher: float, tolerance: float) -> None:
    with pytest.raises(UserError, match=r"teacher\.id = 'old-dqn': .*not above the random policy.*accept_any"):
        check_teacher("old-dqn", teacher_score=teacher, random_score=-20.7, tolerance=tolerance)


def test_a_teacher_above_random_is_accepted() -> None:
    check_teacher("old-dqn", teacher_score=-5.0, random_score=-20.7, tolerance=1.0)


def test_smoothing_follows_the_scores_slowly() -> None:
    distillation, values = Distillation(), list[float]()
    for version, score in enumerate((1.0, 1.0, 0.0, 2.0, 2.0)):
        distillation.observe(score, version, latch=True, smoothing=0.5)
        values.append(distillation.value)
    assert values == pytest.approx([0.5, 0.25, 0.625, 0.0, 0.0])
    assert distillation.weaned
    assert distillation.score == pytest.approx(1.59375)
