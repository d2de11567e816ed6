"""Agents that Dopamine (JAX and TensorFlow) and CleanRL (JAX) wrote, read without any of them.

The references were computed by the networks of those frameworks: see `fixtures/write_dopamine.py` and
`fixtures/write_cleanrl_jax.py`.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from teacher_store.importers.formats import cleanrl_jax, dopamine_jax, dopamine_tf
from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import find_importers
from tests.helpers.fixture_files import unzip
from tests.helpers.parity import BY_FOLDER, imported, largest_difference, read
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError

SMALL = {"width": 1 / 8, "hidden": 24}
AGENTS: list[tuple[str, int, dict[str, Any]]] = [
    ("dopamine_jax/nature-full", 6, {"kind": "nature", "padding": "same", "width": 1.0, "hidden": 512, "head": "q"}),
    ("dopamine_jax/nature", 6, SMALL | {"kind": "nature", "padding": "same", "head": "q", "noisy": False}),
    ("dopamine_jax/nature-frozen", 4, SMALL | {"kind": "nature", "padding": "same"}),
    ("dopamine_jax/nature-42", 3, SMALL | {"kind": "nature", "padding": "same"}),
    ("dopamine_jax/nature-before-linen", 6, SMALL | {"kind": "nature", "padding": "same"}),
    ("dopamine_jax/rainbow", 4, SMALL | {"head": "c51", "atoms": 51, "support_limit": 10.0, "dueling": False}),
    ("dopamine_jax/full-rainbow", 3, SMALL | {"head": "c51", "atoms": 51, "dueling": True, "noisy": False}),
    ("dopamine_jax/full-rainbow-noisy", 3, SMALL | {"head": "c51", "dueling": True, "noisy": True}),
    ("dopamine_jax/impala", 5, {"kind": "impala", "padding": "same", "width": 1 / 4, "hidden": 24, "head": "q"}),
    ("dopamine_jax/impala-listed", 5, {"kind": "impala", "padding": "same", "width": 1 / 4}),
    ("dopamine_jax/impala-bare", 5, {"kind": "impala", "padding": "same", "width": 1 / 4}),
    ("dopamine_tf/slim", 4, SMALL | {"kind": "nature", "padding": "same"}),
    ("dopamine_tf/keras-42", 6, SMALL | {"kind": "nature", "padding": "same"}),
    ("dopamine_tf/rainbow", 3, SMALL | {"head": "c51", "atoms": 51, "support_limit": 10.0}),
    ("cleanrl_jax/nature-full", 6, {"kind": "nature", "padding": "valid", "width": 1.0, "hidden": 512, "head": "q"}),
    ("cleanrl_jax/nature", 4, SMALL | {"kind": "nature", "padding": "valid"}),
    ("cleanrl_jax/nature-chunked", 4, SMALL | {"kind": "nature", "padding": "valid"}),
    ("cleanrl_jax/impala", 4, {"kind": "impala", "padding": "same", "width": 1 / 4, "hidden": 24}),
    ("cleanrl_jax/c51", 4, SMALL | {"head": "c51", "atoms": 21, "support_limit": 5.0, "padding": "valid"}),
]


@pytest.mark.parametrize(("fixture", "num_actions", "network"), AGENTS, ids=[fixture for fixture, _, _ in AGENTS])
def test_values_are_those_of_the_framework(fixture: str, num_actions: int, network: dict[str, Any], tmp_path: Path):
    agent = imported(fixture, tmp_path)
    assert agent.num_actions == num_actions
    assert {name: getattr(agent.network, name) for name in network} == network
    assert largest_difference(agent, fixture) < 1e-5


@pytest.mark.parametrize("fixture", [fixture for fixture, _, _ in AGENTS if "full" not in fixture])
def test_a_source_is_recognised_by_its_content_alone(fixture: str, tmp_path: Path):
    folder = unzip(fixture, tmp_path / "agent")
    assert find_importers(SourceFiles(folder)).agent is BY_FOLDER[fixture.split("/")[0]]
    if "dopamine_tf" not in fixture:
        (path,) = folder.iterdir()
        path.rename(folder / "renamed.bin")
        assert find_importers(SourceFiles(folder / "renamed.bin")).agent is BY_FOLDER[fixture.split("/")[0]]


def test_an_index_is_enough_to_find_what_stands_beside_it(tmp_path: Path):
    folder = unzip("dopamine_tf/keras-42", tmp_path / "checkpoints")
    assert read(SourceFiles(folder / "tf_ckpt-3.index"), dopamine_tf.IMPORTER).frame_shape == (42, 42)


def test_what_the_files_say_of_the_training_is_kept(tmp_path: Path):
    agent = imported("dopamine_jax/nature", tmp_path / "jax")
    assert agent.learner_steps == 5  # the count of Adam's state
    assert agent.env_frames == 4_000_000
    assert agent.facts == {"training_steps": "1000000", "current_iteration": "3"}
    agent = imported("dopamine_tf/rainbow", tmp_path / "tf")
    assert (agent.learner_steps, agent.env_frames) == (None, 4_000_000)
    assert agent.facts["current_iteration"] == "3"
    assert agent.facts["assumed"] == "a distribution over returns with 51 atoms from -10 to 10"
    agent = imported("dopamine_tf/slim", tmp_path / "without-bundle")
    assert (agent.env_frames, agent.facts) == (None, {})
    agent = imported("cleanrl_jax/c51", tmp_path / "cleanrl")
    assert agent.env_frames == 40_000_000
    assert agent.facts["env_id"] == "BreakoutNoFrameskip-v4"


@pytest.mark.parametrize(
    ("fixture", "expected"),
    [
        ("dopamine_jax/nature-42", {"frame_size": 42, "sticky_actions": 0.25, "stack_fill": "zeros", "noop_max": 1}),
        ("dopamine_tf/slim", {"frame_size": 84, "fire_reset": False, "episodic_life": False, "clip_rewards": True}),
        ("cleanrl_jax/nature", {"sticky_actions": 0.0, "stack_fill": "first_frame", "episodic_life": True}),
    ],
)
def test_the_protocol_is_the_framework_s(fixture: str, expected: dict[str, Any], tmp_path: Path):
    agent = imported(fixture, tmp_path)
    env = EnvConfig.model_validate(dict(agent.protocol))
    assert {name: getattr(env, name) for name in expected} == expected
    assert set(agent.protocol) == set(EnvConfig.model_fields) - {"task", "factory", "factory_options"}
    assert agent.differences


class TestSeveralCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Dopamine's `checkpoints/`: 3 and 12 are finished, 13 was being written when the training stopped."""
        folder = unzip("dopamine_jax/nature", tmp_path / "checkpoints")
        shutil.copy(unzip("dopamine_jax/nature-frozen", tmp_path / "other") / "ckpt.3", folder / "ckpt.12")
        (folder / "ckpt.13").write_bytes((folder / "ckpt.3").read_bytes()[:-1000])
        for number in (3, 12):
            (folder / f"sentinel_checkpoint_complete.{number}").write_text("done")
        return folder

    def test_the_newest_finished_one_is_read(self, folder: Path):
        assert read(SourceFiles(folder), dopamine_jax.IMPORTER).num_actions == 4

    def test_one_can_be_asked_for(self, folder: Path):
        assert read(SourceFiles(folder), dopamine_jax.IMPORTER, Request(checkpoint=3)).num_actions == 6

    def test_without_sentinels_the_highest_number_is_the_newest(self, folder: Path):
        for path in folder.glob("sentinel*"):
            path.unlink()
        (folder / "ckpt.13").unlink()
        assert read(SourceFiles(folder), dopamine_jax.IMPORTER).num_actions == 4

    def test_one_that_is_not_there_is_refused(self, folder: Path):
        with pytest.raises(UserError, match=r"--checkpoint = 7: is not in .*there are 3, 12, 13"):
            read(SourceFiles(folder), dopamine_jax.IMPORTER, Request(checkpoint=7))

    def test_names_that_do_not_tell_are_refused(self, folder: Path):
        for name in ("3", "12", "13"):
            (folder / f"ckpt.{name}").rename(folder / f"agent-{name}.pickle")
        with pytest.raises(UserError, match=r"several agents: agent-12.pickle, .*give the path"):
            read(SourceFiles(folder), dopamine_jax.IMPORTER)

    def test_of_tensorflow_s_too(self, tmp_path: Path):
        folder = unzip("dopamine_tf/slim", tmp_path / "checkpoints")
        for path in unzip("dopamine_tf/rainbow", tmp_path / "other").iterdir():
            shutil.copy(path, folder / path.name.replace("ckpt-3", "ckpt-20").replace("ckpt.3", "ckpt.20"))
        assert read(SourceFiles(folder), dopamine_tf.IMPORTER).num_actions == 3
        assert read(SourceFiles(folder), dopamine_tf.IMPORTER, Request(checkpoint=3)).num_actions == 4

    def test_cleanrl_s_model_is_the_one_after_the_offline_phase(self, tmp_path: Path):
        folder = unzip("cleanrl_jax/nature", tmp_path / "run")
        other = unzip("cleanrl_jax/impala", tmp_path / "other") / "impala.cleanrl_model"
        shutil.copy(other, folder / "nature-offline-100000.cleanrl_model")
        assert read(SourceFiles(folder), cleanrl_jax.IMPORTER).network.kind == "nature"
        assert read(SourceFiles(folder), cleanrl_jax.IMPORTER, Request(checkpoint=100_000)).network.kind == "impala"
