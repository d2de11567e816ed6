"""Memory of every tier, all columns and indexes included, on frames of random play: an easy game and a hard one."""

import pytest

from benchmarks.tiers import fill, play
from replay_service.table.types import Tier

pytestmark = pytest.mark.slow

LIMITS: dict[str, dict[Tier, int]] = {
    "pong": {"raw": 8200, "warm": 500, "cold": 300},
    "mspacman": {"raw": 8200, "warm": 2000, "cold": 400},
}
"""Bytes per transition."""


@pytest.mark.parametrize("game", LIMITS)
def test_transitions_take_no_more_memory_than_promised(game: str) -> None:
    spec, chunks = play(game, steps=270)
    num_steps = len(chunks) * spec.steps
    for tier, limit in LIMITS[game].items():
        assert fill(tier, spec, chunks).memory_bytes / num_steps <= limit, tier
    fifty_million_frames = 50_000_000 // 4
    assert fill("cold", spec, chunks).memory_bytes / num_steps * fifty_million_frames < 8 << 30
