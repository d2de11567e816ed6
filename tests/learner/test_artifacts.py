"""A full disk ends a learner with all that there is room for, not in the middle of a collective."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from learner.artifacts import ArtifactWriter
from learner.checkpoint import CheckpointFolder
from tests.helpers.cartpole_learner import new_learner, replay, run_folder
from upcycle.config.io import parse_config
from upcycle.errors import UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder

SPEC = ChunkSpec(frame_shape=(4,), frame_dtype="float32", num_actions=2, steps=8, history=0, lookahead=1)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", parse_config({"phases": ["rl"]}))


def test_a_policy_version_without_room_asks_for_the_end_and_the_checkpoint_is_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopSignal()
    artifacts = ArtifactWriter(
        folder.config, SPEC, folder=folder, metrics=Metrics("learner", "run"), tracker=None, stop=stop
    )

    def full(*_: Any, **__: Any) -> None:
        raise UserError("disk", "/data", "is full", "free some space")

    monkeypatch.setattr(SnapshotFolder, "publish", full)
    artifacts.publish(nn.Linear(2, 2), {"learner_steps": 1})
    assert stop.is_set()
    assert artifacts.problem is not None
    artifacts.save({"value": torch.tensor(1)}, {"learner_steps": 1})
    assert CheckpointFolder(folder.checkpoints).load_newest() is not None
    monkeypatch.setattr(CheckpointFolder, "save", full)
    artifacts.save({}, {"learner_steps": 2})  # a second failure is no worse than the first
    assert "is full" in str(artifacts.problem)


@pytest.mark.slow
def test_a_phase_that_ends_on_a_full_disk_is_in_the_checkpoint_and_is_written_down_by_a_resume(
    tmp_path: Path, experience: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise UserError("disk", "/data", "is full", "free some space")

    folder = run_folder(tmp_path, phases=["rl"], rl={"env_frames": 10})
    with replay("online", experience) as client:

        def run() -> None:
            new_learner(folder, client)[0].run()

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write_phases", full)
            with pytest.raises(UserError, match="is full"):
                run()
        assert CheckpointFolder(folder.checkpoints).load_newest() is not None
        assert not folder.phases()
        run()
    assert [phase["phase"] for phase in folder.phases()] == ["rl"]
