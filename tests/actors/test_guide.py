"""Openings and shares of the guiding teacher, against their definitions."""

import numpy as np
import pytest

from actors.guide import Guide, opening_limit, teacher_probability
from upcycle.config.run import GuideConfig
from upcycle.experience.chunks import Array

LANES = np.arange(3, dtype=np.int32)


def openings(guide: Guide, *, length: int, episodes: int, phase_frames: int | None) -> list[Array]:
    """How many steps the teacher has opened each episode of `length` rows with, per lane; it must not come back."""
    counts: list[Array] = []
    for _ in range(episodes):
        masks = [guide.choose(LANES, np.full(3, row == 0), phase_frames=phase_frames) for row in range(length)]
        acted = np.stack(masks)
        counts.append(acted.sum(axis=0))
        assert (np.diff(acted.astype(int), axis=0) <= 0).all()
    return counts


@pytest.mark.parametrize(
    ("iterations", "limit"),
    [(0, 10), (1, 8), (2, 6), (3, 4), (4, 3), (5, 2), (6, 1), (7, 0), (8, 0), (10**9, 0)],
)
def test_the_opening_shrinks_by_whole_steps_until_nobody_is_left(iterations: int, limit: int) -> None:
    config = GuideConfig(kind="opening", opening_steps=10, opening_decay=0.8, iteration_frames=100)
    assert opening_limit(config, iterations * 100) == limit
    assert opening_limit(config, iterations * 100 + 99) == limit


def test_an_opening_is_a_draw_from_one_to_the_limit() -> None:
    guide = Guide(GuideConfig(kind="opening", opening_steps=4), 3, np.random.default_rng(0))
    counts = np.concatenate(openings(guide, length=6, episodes=1000, phase_frames=0))
    shares = np.bincount(counts, minlength=5) / len(counts)
    np.testing.assert_allclose(shares, [0, 0.25, 0.25, 0.25, 0.25], atol=0.04)  # five standard errors of 0.008


def test_an_episode_keeps_the_opening_that_it_drew_while_the_limit_falls() -> None:
    config = GuideConfig(kind="opening", opening_steps=1000, opening_decay=0.001, iteration_frames=100)
    guide = Guide(config, 3, np.random.default_rng(1))
    first = np.ones(3, bool)
    assert guide.choose(LANES, first, phase_frames=0).all()
    assert guide.choose(LANES, ~first, phase_frames=200).all()  # the limit is 0 by now
    assert not guide.choose(LANES, first, phase_frames=200).any()  # which goes for the next episode


@pytest.mark.parametrize("kind", ["nobody", "opening", "fading"])
def test_the_student_acts_alone_outside_the_online_phase(kind: str) -> None:
    guide = Guide(GuideConfig.model_validate({"kind": kind}), 3, np.random.default_rng(0))
    assert sum(map(sum, openings(guide, length=5, episodes=3, phase_frames=None))) == 0


def test_an_opening_ends_with_the_phase_and_waits_for_an_episode_at_its_start() -> None:
    guide = Guide(GuideConfig(kind="opening", opening_steps=1000), 3, np.random.default_rng(0))
    first = np.ones(3, bool)
    guide.choose(LANES, first, phase_frames=None)
    assert not guide.choose(LANES, ~first, phase_frames=0).any()  # in the middle of an episode
    assert guide.choose(LANES, first, phase_frames=0).all()
    assert not guide.choose(LANES, ~first, phase_frames=None).any()
    assert not guide.choose(LANES, ~first, phase_frames=0).any()


def test_lanes_are_told_apart() -> None:
    guide = Guide(GuideConfig(kind="opening", opening_steps=1), 3, np.random.default_rng(0))
    one, two = LANES[:1], LANES[1:]
    assert guide.choose(one, np.array([True]), phase_frames=0).tolist() == [True]
    assert guide.choose(two, np.array([False, True]), phase_frames=0).tolist() == [False, True]
    assert guide.choose(one, np.array([False]), phase_frames=0).tolist() == [False]


def test_the_share_fades_linearly() -> None:
    config = GuideConfig(kind="fading", fade_frames=1000)
    assert [teacher_probability(config, frames) for frames in (0, 250, 1000, 5000)] == [1.0, 0.75, 0.0, 0.0]
    guide = Guide(config, 3, np.random.default_rng(0))
    never = np.zeros(3, bool)
    acted = np.stack([guide.choose(LANES, never, phase_frames=250) for _ in range(4000)])
    np.testing.assert_allclose(acted.mean(axis=0), 0.75, atol=0.035)  # five standard errors of 0.007
    assert guide.choose(LANES, never, phase_frames=0).all()
    assert not guide.choose(LANES, never, phase_frames=1000).any()
