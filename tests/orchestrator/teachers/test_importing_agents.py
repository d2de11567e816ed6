"""Genuine files of each framework through the whole import: recognised, read, compared, published, played."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.teachers.importing import ImportOptions, import_teacher
from teacher_store.store.store import TeacherStore
from tests.helpers.fixture_files import unzip
from tests.helpers.paths import FIXTURES
from upcycle.errors import UserError

pytestmark = pytest.mark.slow

AGENTS = {
    "cleanrl_jax/nature": ("Breakout-v5", "q_values"),
    "cleanrl_torch/nature": ("Breakout-v5", "q_values"),
    "cleanrl_torch/c51": ("Breakout-v5", "q_values"),
    "cleanrl_torch/impala": ("Breakout-v5", "q_values"),
    "cleanrl_torch/ppo": ("Breakout-v5", "probabilities"),
    "gogianu/dqn-zip": ("Pong-v5", "q_values"),
    "gogianu/mdqn-legacy": ("Breakout-v5", "q_values"),
    "gogianu/c51-legacy": ("Freeway-v5", "q_values"),
    "stable_baselines3/dqn": ("Breakout-v5", "q_values"),
    "stable_baselines3/ppo": ("Breakout-v5", "probabilities"),
}
"""Task of so many actions, and what the agent gives."""


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "teachers", bundled=None)


def options_for(fixture: str, tmp_path: Path, *, episodes: int = 0) -> ImportOptions:
    return ImportOptions(
        unzip(fixture, tmp_path / "agent"),
        "agent",
        task=AGENTS[fixture][0],
        overrides=("env.max_episode_steps=40",),
        reference=FIXTURES / fixture / "reference.npz",
        episodes=episodes,
    )


@pytest.mark.parametrize("fixture", AGENTS)
def test_an_agent_becomes_a_teacher_that_computes_what_it_did(fixture: str, store: TeacherStore, tmp_path: Path):
    record = import_teacher(store, options_for(fixture, tmp_path))
    assert record.kind == AGENTS[fixture][1]
    assert record.parity is not None
    assert record.parity.observations == 3
    assert record.parity.largest_difference < 1e-5
    assert len(record.actions) == record.num_actions
    assert record.provenance.source is not None
    assert record.provenance.source.format == fixture.split("/")[0].replace("_", "-")
    store.verify(record)


@pytest.mark.parametrize(("fixture", "actions"), [("gogianu/dqn-zip", "greedy"), ("stable_baselines3/ppo", "sampled")])
def test_it_plays_for_its_score_under_its_own_protocol(fixture: str, actions: str, store: TeacherStore, tmp_path: Path):
    record = import_teacher(store, options_for(fixture, tmp_path, episodes=2))
    assert record.score is not None
    assert (record.score.episodes, record.score.actions) == (2, actions)
    assert record.env.resize_order == ("resize_first" if fixture.startswith("gogianu") else "pool_first")


def test_logits_may_differ_by_a_constant_from_those_they_are_compared_with(store: TeacherStore, tmp_path: Path):
    options = options_for("cleanrl_torch/ppo", tmp_path)
    assert options.reference is not None
    with np.load(options.reference) as arrays:
        observations, logits = arrays["observations"], arrays["q_values"]
    for name, values in (("shifted", logits + np.float32(3)), ("scaled", logits * np.float32(3))):
        np.savez(tmp_path / f"{name}.npz", allow_pickle=False, observations=observations, q_values=values)
    with pytest.raises(UserError, match="differs from the imported weights' values"):
        import_teacher(store, replace(options, reference=tmp_path / "scaled.npz"))
    record = import_teacher(store, replace(options, reference=tmp_path / "shifted.npz"))
    assert record.parity is not None
    assert record.parity.largest_difference < 1e-5
