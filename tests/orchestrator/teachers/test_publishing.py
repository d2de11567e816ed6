"""Real environments (CartPole), a real network, a real store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.envs import chunk_spec
from learner.checkpoint import CheckpointFolder
from learner.train_state import TrainState
from learner.training_arrays import to_train_state
from orchestrator.cli import teacher_commands
from orchestrator.teachers.publishing import collect_experience, publish_from_run, score_teacher
from teacher_store.store.store import TeacherStore
from upcycle.config.run import EnvConfig, NetworkConfig, RunConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import decode_chunk, encode_chunk
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import SnapshotFolder

ENV = EnvConfig(task="CartPole-v1", max_episode_steps=60)
CPU = torch.device("cpu")
NETWORK = NetworkConfig(kind="mlp", hidden=8)


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    return TeacherStore(tmp_path / "store", bundled=None)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run: two policy versions, one chunk of experience, a final evaluation of the newer version."""
    config = RunConfig.model_validate(
        {
            "name": "cart", "phases": ("rl",), "env": ENV.model_dump(), "network": NETWORK.model_dump(),
            "evaluation": {"final_episodes": 4},
        }
    )  # fmt: skip
    folder = RunFolder.create(
        tmp_path / "runs" / "cart", config, teacher={"id": "old-01234567", "score": 9.0}, random_score=20.0
    )
    torch.manual_seed(0)
    network = build_network(NETWORK, frame_shape=(4,), stack=1, num_actions=2)
    for version in (1, 2):
        metadata = {"policy_version": str(version), "learner_steps": str(version * 100), "env_frames": "5000"}
        SnapshotFolder(folder.snapshots).publish(version, to_numpy(network.state_dict()), metadata)
    final = {"kind": "final", "policy_version": 2, "mean_return": 30.0, "returns": [20.0, 40.0]}
    folder.append_score(final)
    return folder


def leave_experience(folder: RunFolder, store: TeacherStore) -> None:
    """Fills the run's log with chunks that a policy has really played."""
    teacher = publish_from_run(folder.path, store, name="player")
    played = store.open_log(collect_experience(teacher, store, frames=200, epsilons=(0.5,), seed=0, lanes=2))
    with ExperienceLogWriter.open(folder.experience / "shard-0", played.spec, ENV) as log:
        for data in played.iterate():
            log.append(data, decode_chunk(data, played.spec).num_transitions(played.spec))


def test_a_run_becomes_a_teacher_with_its_score_log_and_descent(run: RunFolder, store: TeacherStore) -> None:
    leave_experience(run, store)
    record = publish_from_run(run.path, store, name="balancer")
    assert record.score is not None
    assert (record.score.mean_return, record.score.episodes) == (30.0, 2)  # of the final evaluation, not played again
    assert record.random_score == 20.0
    assert record.parents == ("old-01234567",)
    assert record.actions == ("push left", "push right")
    assert (record.frame_shape, record.frame_stack, record.num_actions) == ((4,), 1, 2)
    assert record.provenance.run_id == run.manifest["run_id"]
    assert record.provenance.learner_steps == 200
    assert record.provenance.config is not None
    assert "CartPole-v1" in record.provenance.config
    assert record.experience is not None
    assert record.experience.transitions >= 200
    (segment,) = run.experience.rglob("*.log")
    shared = next(store.log_directory(record).rglob("*.log"))
    assert shared.read_bytes() == segment.read_bytes()
    # The store had these bytes already, of the teacher that played them.
    assert shared.samefile(next(store.log_directory(store.get("player")).rglob("*.log")))


def leave_checkpoint(folder: RunFolder) -> TrainState:
    """A checkpoint after one step."""
    config = folder.config
    state = TrainState(build_network(NETWORK, frame_shape=(4,), stack=1, num_actions=2), config.learner, CPU)
    state.online_network(torch.ones(2, 1, 4)).sum().backward()
    state.optimizer.step()
    state.learner_steps = 1
    CheckpointFolder(folder.checkpoints).save({"train_state": state.state_dict()}, learner_steps=1, counters={})
    return state


def test_the_newest_checkpoint_goes_along_for_those_that_fine_tune(run: RunFolder, store: TeacherStore) -> None:
    state = leave_checkpoint(run)
    record = publish_from_run(run.path, store, name="balancer")
    assert record.training_state is not None
    assert (record.training_state.optimizer, record.training_state.learner_steps) == ("adam", 1)
    arrays = store.training_state(record)
    network = build_network(NETWORK, frame_shape=(4,), stack=1, num_actions=2)
    student = TrainState(network, run.config.learner, CPU)
    student.load_state_dict(to_train_state(arrays, network, student.optimizer))
    torch.testing.assert_close(student.state_dict(), state.state_dict(), rtol=0, atol=0)
    assert list(store.staging.iterdir()) == []


def test_damaged_checkpoints_can_be_left_out(run: RunFolder, store: TeacherStore) -> None:
    leave_checkpoint(run)
    next(run.checkpoints.glob("*.pt")).write_bytes(b"torn")
    with pytest.raises(CorruptDataError, match="is damaged"):
        publish_from_run(run.path, store, name="balancer")
    assert publish_from_run(run.path, store, name="balancer", with_training_state=False).training_state is None


def test_an_older_version_is_played_for_its_score(run: RunFolder, store: TeacherStore) -> None:
    record = publish_from_run(run.path, store, name="older", policy_version=1, with_experience=False)
    assert record.score is not None
    assert record.score.episodes == 4
    assert 8.0 <= record.score.interval_low <= record.score.mean_return <= record.score.interval_high <= 60.0
    assert record.provenance.learner_steps == 100
    assert record.experience is None
    with pytest.raises(UserError, match="is not kept; choose one of 1, 2"):
        publish_from_run(run.path, store, name="none", policy_version=7)


def test_a_run_without_weights_cannot_be_published(tmp_path: Path, store: TeacherStore) -> None:
    folder = RunFolder.create(tmp_path / "new", RunConfig.model_validate({"phases": ("rl",)}))
    with pytest.raises(UserError, match="has no weights yet"):
        publish_from_run(folder.path, store, name="x")


def test_collecting_leaves_chunks_of_the_teachers_own_play(run: RunFolder, store: TeacherStore) -> None:
    record = publish_from_run(run.path, store, name="balancer")
    done: list[tuple[int, int]] = []
    spec = chunk_spec(ENV, 16, 5)
    record = collect_experience(
        record, store, frames=300, epsilons=(0.0, 1.0), seed=1, lanes=2, spec=spec,
        on_progress=lambda now, total: done.append((now, total)),
    )  # fmt: skip
    log = store.open_log(store.get(record.id))
    assert log.spec == spec
    assert log.env == ENV
    assert 300 <= log.num_transitions < 300 + 2 * 16
    chunks = [decode_chunk(data, log.spec) for data in log.iterate()]
    assert sum(chunk.num_transitions(spec) for chunk in chunks) == log.num_transitions
    assert all(encode_chunk(chunk, spec) for chunk in chunks)
    assert done[-1] == (300, 300)
    assert list(store.staging.iterdir()) == []


def test_a_stopped_collection_changes_nothing(run: RunFolder, store: TeacherStore) -> None:
    record = publish_from_run(run.path, store, name="balancer")
    stop = StopSignal()
    stop.set()
    with pytest.raises(UserError, match="was stopped while it played"):
        collect_experience(record, store, frames=300, epsilons=(0.0,), seed=1, stop=stop)
    assert store.get(record.id) == record
    assert list(store.staging.iterdir()) == []


def test_a_score_is_the_same_for_the_same_seed_and_is_kept(run: RunFolder, store: TeacherStore) -> None:
    record = publish_from_run(run.path, store, name="balancer")
    first, played = score_teacher(record, store, episodes=5, seed=3)
    assert store.get(record.id) == first
    assert first.score == played
    assert played.episodes == 5
    assert score_teacher(record, store, episodes=5, seed=3) == (first, played)
    without = record.model_copy(update={"random_score": None})
    random = score_teacher(without, store, episodes=5, seed=3)[0].random_score
    assert random is not None
    assert 10.0 < random < 40.0  # CartPole's random policy lasts about 22 steps


def test_the_commands_print_one_json_value(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))

    def printed() -> Any:
        return json.loads(capsys.readouterr().out)

    teacher_commands.publish(run.path, name="balancer", as_json=True)
    published = printed()
    teacher_commands.list_teachers(as_json=True)
    assert published["id"] in [teacher["id"] for teacher in printed()]
    teacher_commands.collect("balancer", frames=100, as_json=True)
    assert printed()["experience"]["transitions"] >= 100
    teacher_commands.evaluate("balancer", episodes=3, as_json=True)
    assert printed()["score"]["episodes"] == 3
    teacher_commands.show_teacher("balancer", as_json=True, verify=True)
    shown = printed()
    assert shown["verified"] is True
    assert shown["provenance"]["run_id"] == run.manifest["run_id"]
    assert np.isfinite(shown["score"]["interval_low"])


def test_the_commands_print_tables_for_people(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))
    monkeypatch.setenv("COLUMNS", "40")
    leave_checkpoint(run)
    teacher_commands.publish(run.path, name="balancer", as_json=False)
    assert "30.00 (95 % interval 20.00 to 40.00, 2 games" in capsys.readouterr().out
    teacher_commands.list_teachers(as_json=False)
    listed = capsys.readouterr().out
    assert "CartPole-v1" in listed
    assert TeacherStore.default().get("balancer").id in listed
    assert "…" not in listed
    teacher_commands.show_teacher("balancer", as_json=False, verify=True)
    shown = capsys.readouterr().out
    record = TeacherStore.default().get("balancer")
    assert record.weights is not None
    assert f"{record.weights.bytes:,} bytes, SHA-256 {record.weights.sha256}\n" in shown  # whole, in a pipe
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("record ")]
    assert Path(line.split(maxsplit=1)[1]).is_file()
    assert "folder" not in shown
    assert "push left, push right" in shown
    assert "networks and adam after 1 learner steps" in shown
    assert "every file verified" in shown
    with pytest.raises(UserError, match="did you mean balancer"):
        teacher_commands.show_teacher("ballancer", as_json=False)
    assert capsys.readouterr().out == ""


def test_a_score_of_fewer_games_and_a_smaller_buffer_take_no_place_unless_told(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "mine"))
    store = TeacherStore.default()
    teacher_commands.publish(run.path, name="balancer", as_json=True)
    teacher_commands.evaluate("balancer", episodes=6, as_json=True)
    before = store.get("balancer").score
    assert before is not None
    assert before.episodes == 6  # more than the two of the final evaluation
    capsys.readouterr()
    teacher_commands.evaluate("balancer", episodes=3, seed=1, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["score"]["episodes"], printed["played"]["episodes"]) == (6, 3)
    assert store.get("balancer").score == before
    teacher_commands.evaluate("balancer", episodes=3, seed=1, as_json=False)
    assert "the score of 6 games stays, --replace would" in capsys.readouterr().out
    teacher_commands.evaluate("balancer", episodes=3, seed=1, replace=True, as_json=True)
    after = store.get("balancer").score
    assert after is not None
    assert after.episodes == 3
    teacher_commands.collect("balancer", frames=200, as_json=True)
    with pytest.raises(UserError, match=r"would replace the buffer of balancer-.* pass --replace to lose it"):
        teacher_commands.collect("balancer", frames=100, as_json=True)
    teacher_commands.collect("balancer", frames=100, replace=True, as_json=True)
    record = store.get("balancer")
    assert record.experience is not None
    assert record.experience.transitions < 200
