"""Agents that CleanRL, Gogianu and Stable-Baselines3 trained with PyTorch, read without it.

The references were computed by the networks of those frameworks: see `fixtures/write_cleanrl_torch.py`,
`fixtures/write_gogianu.py` and `fixtures/write_stable_baselines3.py`.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from teacher_store.importers.formats import cleanrl_torch, gogianu, stable_baselines3
from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip
from tests.helpers.parity import imported, largest_difference, read
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError

NATURE = {"kind": "nature", "padding": "valid", "width": 1.0}
C51 = NATURE | {"head": "c51", "dueling": False, "noisy": False}
AGENTS: list[tuple[str, int, dict[str, Any]]] = [
    ("cleanrl_torch/nature-full", 6, NATURE | {"hidden": 512, "head": "q"}),
    ("cleanrl_torch/nature", 4, NATURE | {"hidden": 24, "head": "q"}),
    ("cleanrl_torch/c51", 4, C51 | {"hidden": 24, "atoms": 21, "support_limit": 5.0}),
    ("cleanrl_torch/ppo", 4, NATURE | {"hidden": 24, "head": "q"}),
    ("cleanrl_torch/impala", 4, {"kind": "impala", "padding": "symmetric", "width": 1 / 4, "hidden": 24}),
    ("cleanrl_torch/impala-full", 6, {"kind": "impala", "padding": "symmetric", "width": 1.0, "hidden": 256}),
    ("gogianu/dqn-zip", 6, NATURE | {"hidden": 16, "head": "q"}),
    ("gogianu/dqn-legacy", 6, NATURE | {"hidden": 16, "head": "q"}),
    ("gogianu/mdqn-zip", 4, NATURE | {"hidden": 16, "head": "q"}),
    ("gogianu/mdqn-legacy", 4, NATURE | {"hidden": 16, "head": "q"}),
    ("gogianu/c51-zip", 3, C51 | {"hidden": 16, "atoms": 51, "support_limit": 10.0}),
    ("gogianu/c51-legacy", 3, C51 | {"hidden": 16, "atoms": 51, "support_limit": 10.0}),
    ("stable_baselines3/dqn", 4, NATURE | {"hidden": 16, "head": "q"}),
    ("stable_baselines3/ppo", 4, NATURE | {"hidden": 16, "head": "q"}),
    ("stable_baselines3/ppo-separate", 4, NATURE | {"hidden": 16, "head": "q"}),
]


@pytest.mark.parametrize(("fixture", "num_actions", "network"), AGENTS, ids=[fixture for fixture, _, _ in AGENTS])
def test_values_are_those_of_the_framework(fixture: str, num_actions: int, network: dict[str, Any], tmp_path: Path):
    agent = imported(fixture, tmp_path)
    assert (agent.num_actions, agent.frame_shape, agent.frame_stack) == (num_actions, (84, 84), 4)
    assert agent.kind == ("probabilities" if "ppo" in fixture else "q_values")
    assert {name: getattr(agent.network, name) for name in network} == network
    assert largest_difference(agent, fixture) < 1e-5


@pytest.mark.parametrize(
    ("fixture", "expected"),
    [
        ("cleanrl_torch/nature", {"sticky_actions": 0.0, "stack_fill": "first_frame", "resize_order": "pool_first"}),
        ("cleanrl_torch/ppo", {"episodic_life": True, "fire_reset": True, "noop_max": 30}),
        ("gogianu/dqn-zip", {"sticky_actions": 0.25, "stack_fill": "zeros", "resize_order": "resize_first"}),
        ("gogianu/c51-zip", {"sticky_actions": 0.0, "stack_fill": "zeros", "resize_order": "resize_first"}),
        ("stable_baselines3/dqn", {"sticky_actions": 0.0, "stack_fill": "zeros", "resize_order": "pool_first"}),
    ],
)
def test_the_protocol_is_the_framework_s(fixture: str, expected: dict[str, Any], tmp_path: Path):
    agent = imported(fixture, tmp_path)
    env = EnvConfig.model_validate(dict(agent.protocol))
    assert {name: getattr(env, name) for name in expected} == expected
    assert set(agent.protocol) == set(EnvConfig.model_fields) - {"task", "factory", "factory_options"}
    assert (env.frame_size, env.frame_stack) == (84, 4)
    assert agent.differences


def test_what_the_files_say_of_the_training_is_kept(tmp_path: Path):
    agent = imported("cleanrl_torch/c51", tmp_path / "cleanrl")
    assert agent.env_frames == 40_000_000
    assert agent.facts["env_id"] == "BreakoutNoFrameskip-v4"
    agent = imported("cleanrl_torch/nature", tmp_path / "bare")
    assert (agent.env_frames, agent.facts) == (None, {})
    agent = imported("gogianu/dqn-zip", tmp_path / "gogianu")
    assert agent.env_frames == 200_000_000
    agent = imported("stable_baselines3/dqn", tmp_path / "dqn")
    assert (agent.learner_steps, agent.env_frames) == (5, 160)
    assert agent.facts.items() >= {"gamma": "0.99", "seed": "3", "stable_baselines3": "2.9.2"}.items()
    assert agent.facts["assumed"].startswith("trained under AtariWrapper's defaults")
    agent = imported("stable_baselines3/ppo", tmp_path / "ppo")
    assert (agent.learner_steps, agent.env_frames) == (None, 160)  # its updates are epochs


class TestGogianuPaths:
    @pytest.mark.parametrize(
        ("folder", "sticky", "facts"),
        [
            ("DQN_modern/Pong/0", 0.25, {"algorithm": "DQN", "protocol": "modern", "game": "Pong", "seed": "0"}),
            ("DQN_classic_adam/Breakout/1", 0.0, {"algorithm": "DQN", "protocol": "classic", "game": "Breakout"}),
            ("MDQN_modern", 0.25, {"algorithm": "MDQN", "protocol": "modern"}),
            ("somebody_modern/agents", 0.25, {"assumed": "trained under the modern protocol, as most agents"}),
        ],
    )
    def test_folders_tell_the_protocol(self, folder: str, sticky: float, facts: dict[str, str], tmp_path: Path):
        path = unzip("gogianu/dqn-zip", tmp_path / folder) / "model_50000000.gz"
        for source in (SourceFiles(path), SourceFiles(tmp_path)):
            agent = read(source, gogianu.IMPORTER)
            assert agent.protocol["sticky_actions"] == sticky
            assert {name: agent.facts[name][: len(value)] for name, value in facts.items()} == facts

    def test_the_newest_checkpoint_of_a_run_is_read(self, tmp_path: Path):
        folder = unzip("gogianu/dqn-zip", tmp_path / "0")
        other = unzip("gogianu/c51-zip", tmp_path / "other") / "model_50000000.gz"
        shutil.copy(other, folder / "model_250000.gz")
        assert read(SourceFiles(folder), gogianu.IMPORTER).num_actions == 6
        agent = read(SourceFiles(folder), gogianu.IMPORTER, Request(checkpoint=250_000))
        assert (agent.num_actions, agent.env_frames) == (3, 1_000_000)

    def test_several_seeds_are_refused(self, tmp_path: Path):
        for seed in "01":
            unzip("gogianu/dqn-zip", tmp_path / seed)
        with pytest.raises(UserError, match=r"several agents: 0/model_50000000.gz, 1/model_50000000.gz"):
            read(SourceFiles(tmp_path), gogianu.IMPORTER)


class TestSeveralModels:
    def test_cleanrl_s_model_is_the_one_after_the_offline_phase(self, tmp_path: Path):
        folder = unzip("cleanrl_torch/impala", tmp_path / "run")
        other = unzip("cleanrl_torch/nature", tmp_path / "other") / "nature.cleanrl_model"
        shutil.copy(other, folder / "qdagger-offline-100000.cleanrl_model")
        assert read(SourceFiles(folder), cleanrl_torch.IMPORTER).network.kind == "impala"
        assert read(SourceFiles(folder), cleanrl_torch.IMPORTER, Request(checkpoint=100_000)).network.kind == "nature"

    def test_stable_baselines3_s_is_the_one_after_its_checkpoints(self, tmp_path: Path):
        folder = unzip("stable_baselines3/dqn", tmp_path / "run")
        other = unzip("stable_baselines3/ppo", tmp_path / "other") / "ppo.zip"
        shutil.copy(other, folder / "rl_model_2000_steps.zip")
        shutil.copy(folder / "dqn.zip", folder / "rl_model_1000_steps.zip")
        assert read(SourceFiles(folder), stable_baselines3.IMPORTER).kind == "q_values"
        assert read(SourceFiles(folder), stable_baselines3.IMPORTER, Request(checkpoint=2_000)).kind == "probabilities"
        (folder / "dqn.zip").unlink()
        assert read(SourceFiles(folder), stable_baselines3.IMPORTER).kind == "probabilities"
