import json
import os
from pathlib import Path

import pytest

from upcycle.config.io import parse_config
from upcycle.config.run import RunConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.runs.run_folder import RunFolder


@pytest.fixture
def config() -> RunConfig:
    return parse_config({"name": "trial", "phases": ["rl"], "learner": {"batch_size": 48}})


@pytest.fixture
def folder(tmp_path: Path, config: RunConfig) -> RunFolder:
    return RunFolder.create(tmp_path / "trial", config, preset="catch")


def score(version: int) -> dict[str, object]:
    return {"phase": "rl", "policy_version": version, "mean_return": 1.5, "normalised": None, "kind": "evaluation"}


def test_a_new_folder_is_complete_and_reads_back(folder: RunFolder, config: RunConfig):
    opened = RunFolder.open(folder.path)
    assert opened.config == config
    assert opened.manifest["preset"] == "catch"
    assert opened.manifest["state"] == "created"
    assert opened.manifest["run_id"].startswith("trial-")
    for path in (folder.checkpoints, folder.snapshots, folder.experience, folder.events, folder.logs):
        assert path.is_dir()


def test_an_existing_run_is_not_touched(folder: RunFolder, config: RunConfig):
    before = sorted(folder.path.parent.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        RunFolder.create(folder.path, config)
    assert sorted(folder.path.parent.rglob("*")) == before


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path, config: RunConfig):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        RunFolder.create(tmp_path / "file" / "trial", config)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_run_names_the_known_ones(folder: RunFolder):
    with pytest.raises(UserError, match="known runs: trial"):
        RunFolder.open(folder.path.parent / "trail")


def test_a_run_of_another_format_is_refused(folder: RunFolder):
    folder.update_manifest(format=99)
    with pytest.raises(UserError, match="another version"):
        RunFolder.open(folder.path)


def test_a_damaged_manifest_is_named(folder: RunFolder):
    (folder.path / "manifest.json").write_text('{"format": 1')
    with pytest.raises(CorruptDataError, match=r"manifest\.json"):
        RunFolder.open(folder.path)


def test_manifest_keys_are_replaced_one_by_one(folder: RunFolder):
    run_id = folder.manifest["run_id"]
    folder.update_manifest(state="running", driver={"pid": 1})
    folder.update_manifest(state="stopped")
    assert (folder.manifest["state"], folder.manifest["driver"], folder.manifest["run_id"]) == (
        "stopped",
        {"pid": 1},
        run_id,
    )


def test_endpoints_follow_restarts(folder: RunFolder):
    assert folder.endpoints("replay") == {}
    folder.announce_endpoint("replay", 0, "127.0.0.1:1000")
    folder.announce_endpoint("replay", 11, "127.0.0.1:1011")
    folder.announce_endpoint("replay", 0, "127.0.0.1:2000")
    assert folder.endpoints("replay") == {0: "127.0.0.1:2000", 11: "127.0.0.1:1011"}
    generations = [json.loads(p.read_text())["generation"] for p in sorted((folder.path / "endpoints").iterdir())]
    assert generations == [1, 0]
    folder.request_stop()
    folder.forget_processes()
    assert folder.endpoints("replay") == {}
    assert not folder.stop_requested()


def test_scores_survive_a_torn_line(folder: RunFolder):
    folder.append_score(score(1))
    with (folder.path / "scores.jsonl").open("ab") as file:
        file.write(b'{"phase": "rl", "policy_ver')  # the evaluator was killed here
    assert [record["policy_version"] for record in folder.scores()] == [1]
    folder.append_score(score(2))
    folder.append_score(score(3))
    assert [record["policy_version"] for record in folder.scores()] == [1, 2, 3]


def test_a_score_that_is_no_number_is_refused(folder: RunFolder):
    with pytest.raises(ValueError, match="JSON"):
        folder.append_score(score(1) | {"mean_return": float("nan")})
    assert folder.scores() == []


def test_heartbeats_carry_pid_and_time_and_leave_no_temporary_file(folder: RunFolder):
    folder.write_status("actor", 0, {"frames": 10})
    folder.write_status("actor", 0, {"frames": 20})
    folder.write_status("learner", 0, {"pid": 4, "phase": "rl"})
    statuses = folder.statuses()
    assert statuses["actor-0"]["frames"] == 20
    assert statuses["actor-0"]["pid"] == os.getpid()
    assert statuses["learner-0"]["pid"] == 4
    assert len(list((folder.path / "status").iterdir())) == 2


def test_a_heartbeat_that_is_withdrawn_while_others_look_is_left_out(folder: RunFolder):
    folder.write_status("actor", 0, {"frames": 10})
    folder.announce_endpoint("replay", 0, "127.0.0.1:1")
    for name in ("status/actor-1.json", "endpoints/replay-1.json"):
        (folder.path / name).symlink_to("gone")  # listed, and not there any more when it is opened
    assert list(folder.statuses()) == ["actor-0"]
    assert folder.endpoints("replay") == {0: "127.0.0.1:1"}


def test_phases_and_metric_targets_read_back(folder: RunFolder):
    assert folder.phases() == []
    folder.write_phases([{"phase": "offline", "seconds": 1.5}])
    assert folder.phases() == [{"phase": "offline", "seconds": 1.5}]
    folder.write_metrics_targets([{"targets": ["127.0.0.1:1"], "labels": {"role": "actor"}}])
    assert json.loads(folder.metrics_targets.read_text())[0]["targets"] == ["127.0.0.1:1"]


def test_only_the_owner_looks_into_a_run_and_learns_who_listens_where(folder: RunFolder):
    folder.announce_endpoint("replay", 0, "127.0.0.1:1000")
    folder.write_metrics_targets([{"targets": ["127.0.0.1:1"], "labels": {}}])
    assert folder.path.stat().st_mode & 0o777 == 0o700
    said = [*(folder.path / "endpoints").iterdir(), folder.metrics_targets]
    assert [path.stat().st_mode & 0o777 for path in said] == [0o600] * 2
