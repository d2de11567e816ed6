"""What the importer of Stable-Baselines3's agents refuses, and what it never decodes."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from teacher_store.importers.formats import stable_baselines3
from teacher_store.importers.imported import ImportedAgent
from tests.helpers.fixture_files import unzip
from tests.helpers.torch_agents import Evil, dqn_zip, entry, read, rezipped
from upcycle.errors import CorruptDataError, UserError


def read_with(tmp_path: Path, **changes: Any) -> ImportedAgent:
    """The fixture, with other settings."""
    data = (unzip("stable_baselines3/dqn", tmp_path / "genuine") / "dqn.zip").read_bytes()
    settings = json.loads(entry(data, "data")) | changes
    changed = rezipped(data, {"data": json.dumps(settings).encode()})
    return read(stable_baselines3.IMPORTER, tmp_path / "agent.zip", changed)


def test_pickles_in_base64_are_never_decoded(tmp_path: Path):
    """Stable-Baselines3's own `load` runs them: here one would make a file."""
    mark = tmp_path / "executed"
    hostile = pickle.dumps(Evil(mark))
    planted = {":type:": "<class 'float'>", ":serialized:": base64.b64encode(hostile).decode()}
    names = ("policy_class", "gamma", "lr_schedule", "replay_buffer_class", "num_timesteps", "seed")
    agent = read_with(tmp_path, **dict.fromkeys(names, planted))
    assert agent.env_frames is None
    assert "gamma" not in agent.facts
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists(), "the pickle would have done nothing anyhow"


def test_pickles_beside_the_policy_are_left_alone(tmp_path: Path):
    mark = tmp_path / "executed"
    hostile = {"pytorch_variables.pth": pickle.dumps(Evil(mark)), "policy.optimizer.pth": pickle.dumps(Evil(mark))}
    assert read(stable_baselines3.IMPORTER, tmp_path / "agent.zip", dqn_zip(tmp_path, hostile)).num_actions == 4
    assert not mark.exists()


@pytest.mark.parametrize("fixture", ["ppo-layers", "ppo-raw"])
def test_policies_that_compute_something_else_are_refused(fixture: str, tmp_path: Path):
    path = unzip(f"stable_baselines3/{fixture}", tmp_path) / f"{fixture}.zip"
    problem = "normalize_images=False" if fixture == "ppo-raw" else r"mlp_extractor\.policy_net\.0\.bias"
    with pytest.raises(UserError, match=problem):
        read(stable_baselines3.IMPORTER, path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"policy_kwargs": {"normalize_images": "False"}}, "normalize_images=False"),
        ({"policy_kwargs": {"features_extractor_class": "<class 'a.b.ImpalaCNN'>"}}, "features of .*ImpalaCNN"),
        (
            {"action_space": {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>"}},
            "over actions of",
        ),
        ({"action_space": {":type:": "<class 'gymnasium.spaces.box.Box'>"}}, "over actions of .*Box"),
        ({"observation_space": {"_shape": [4]}}, r"observations of the shape \[4\]"),
        ({"observation_space": {"_shape": "84"}}, "observations of the shape 84"),
        ({"observation_space": {"_shape": [4, -84, -84]}}, "observations of the shape"),
        ({"observation_space": {"_shape": [4, 84, 96]}}, "frames of 84x96, which are not square"),
        ({"observation_space": {"_shape": [4, 128, 128]}}, r"linear\.0\.weight has the shape \(16, 3136\)"),
        ({"observation_space": {"_shape": [4, 20, 20]}}, r"linear\.0\.weight has the shape \(16, 3136\)"),
    ],
)
def test_settings_of_something_else_are_refused(changes: dict[str, Any], problem: str, tmp_path: Path):
    with pytest.raises((UserError, CorruptDataError), match=rf"agent\.zip.*{problem}"):
        read_with(tmp_path, **changes)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 200_000, b"\xff\xfe", b'{"a": 1' + b"0" * 5_000 + b"}", b"[1]"])
def test_settings_that_are_damaged_are_refused(data: bytes, tmp_path: Path):
    with pytest.raises(CorruptDataError, match=r"agent\.zip: data: (damaged JSON|a list where)"):
        read(stable_baselines3.IMPORTER, tmp_path / "agent.zip", dqn_zip(tmp_path, {"data": data}))


@pytest.mark.parametrize("value", [True, -1, 1 << 60, 0.5, "100", [1], float("nan")])
def test_counts_that_are_none_are_left_out(value: Any, tmp_path: Path):
    agent = read_with(tmp_path, num_timesteps=value, _n_updates=value)
    assert (agent.learner_steps, agent.env_frames) == (None, None)


def test_a_policy_that_is_no_file_of_pytorch_is_refused(tmp_path: Path):
    data = dqn_zip(tmp_path, {"policy.pth": b"nothing"})
    with pytest.raises(CorruptDataError, match=r"agent\.zip: policy\.pth: is no file of torch\.save"):
        read(stable_baselines3.IMPORTER, tmp_path / "agent.zip", data)
