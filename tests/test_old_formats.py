"""Runs, stores, logs and bundles that were written at commit 2fa8308 still open, and say the same as they did then.

`tests/fixtures/write_at_2fa8308.py` wrote them, and beside them what the code of that commit read in them. A record may
have gained fields since, but must not have lost or changed any.
"""

import copy
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic_core import to_jsonable_python

from learner.checkpoint import CheckpointFolder
from orchestrator.cli.app import main
from orchestrator.reports.summary import read_summary, summarise
from orchestrator.teachers.bundles import import_bundle
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import BUNDLED, TeacherStore
from teacher_store.teacher import load_teacher
from teacher_store.training_state import TrainingArrays
from tests.helpers.digests import digest_of_arrays, digest_of_state
from tests.helpers.in_process import resume_in_process
from tests.helpers.paths import ROOT
from upcycle.experience.chunks import decode_chunk
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.snapshots import SnapshotFolder, read_snapshot

ARCHIVE = ROOT / "tests" / "fixtures" / "written_at_2fa8308.tar.xz"
RUNS = ("finished", "stopped")
TEACHERS = [("store", "finished"), ("store", "pong"), ("old_store", "pong")]


def unpacked(folder: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def expected(written: Path) -> dict[str, Any]:
    return json.loads((written / "expected.json").read_bytes())


def store_at(path: Path) -> TeacherStore:
    return TeacherStore(path, bundled=None)


def check_kept(now: object, then: object, where: str = "") -> None:
    """Fails where `now` lacks what was there `then`; keys that are new in objects may be anything."""
    if isinstance(then, Mapping):
        assert isinstance(now, Mapping), where
        now = cast(Mapping[str, object], now)
        for key, value in cast(Mapping[str, object], then).items():
            assert key in now, f"{where}: {key} is lost"
            check_kept(now[key], value, f"{where}.{key}")
    elif isinstance(then, list):
        assert isinstance(now, list | tuple), where
        mine, theirs = cast(Sequence[object], now), cast(list[object], then)
        assert len(mine) == len(theirs), where
        for index in range(len(theirs)):
            check_kept(mine[index], theirs[index], f"{where}[{index}]")
    else:
        assert now == then, where


def digests_of_log(reader: ExperienceLogReader) -> dict[str, Any]:
    chunks = [decode_chunk(data, reader.spec) for data in reader.iterate()]
    return {
        "transitions": reader.num_transitions,
        "spec": reader.spec.to_json(),
        "chunks": [digest_of_arrays({"frame": chunk.frame, **chunk.columns}) for chunk in chunks],
    }


def check_log(reader: ExperienceLogReader, then: dict[str, Any]) -> None:
    reader.verify()
    assert digests_of_log(reader) == {key: then[key] for key in ("transitions", "spec", "chunks")}
    check_kept(reader.env.model_dump(mode="json"), then["env"])


def digest_of_training(arrays: TrainingArrays) -> str:
    return digest_of_arrays(
        {f"online/{name}": array for name, array in arrays.online.items()}
        | {f"target/{name}": array for name, array in arrays.target.items()}
        | {f"{name}/{kept}": array for name, states in arrays.optimizer.items() for kept, array in states.items()}
    )


@pytest.mark.parametrize("name", RUNS)
def test_the_small_files_of_a_run_say_what_they_said(written: Path, expected: dict[str, Any], name: str) -> None:
    folder, then = RunFolder.open(written / "runs" / name), expected["runs"][name]
    check_kept(folder.config.model_dump(mode="json"), then["config"], "config")
    check_kept(to_jsonable_python(folder.manifest), then["manifest"], "manifest")
    check_kept(to_jsonable_python(folder.scores()), then["scores"], "scores")
    check_kept(to_jsonable_python(folder.phases()), then["phases"], "phases")


def test_the_summary_of_a_finished_run_is_made_again(written: Path, expected: dict[str, Any]) -> None:
    then = expected["runs"]["finished"]["summary"]
    check_kept(to_jsonable_python(read_summary(written / "runs" / "finished")), then)
    totals = {key: then[key] for key in ("env_frames", "learner_steps", "samples_per_insert", "wall_seconds")}
    check_kept(to_jsonable_python(summarise(RunFolder.open(written / "runs" / "finished"), **totals)), then)


@pytest.mark.parametrize("name", RUNS)
def test_status_shows_a_run_as_it_did(
    written: Path, expected: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", name, "--runs", str(written / "runs"), "--json"]) == 0
    then = copy.deepcopy(expected["status"][name])
    for process in then["processes"].values():
        if process["state"] == "running":  # status said so even of a run that had ended
            process["state"] = "ended"
    check_kept(json.loads(capsys.readouterr().out), then)


@pytest.mark.parametrize("name", RUNS)
def test_reports_can_be_written_of_a_run(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runs = unpacked(tmp_path) / "runs"
    before = runs / name / "report.html"
    before.unlink(missing_ok=True)
    assert main(["report", name, "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.strip() == str(before)
    assert "Catch-v0" in before.read_text()


@pytest.mark.parametrize("name", RUNS)
def test_checkpoint_and_weights_of_a_run_are_whole(written: Path, expected: dict[str, Any], name: str) -> None:
    folder, then = RunFolder.open(written / "runs" / name), expected["runs"][name]
    newest = CheckpointFolder(folder.checkpoints).load_newest()
    assert newest is not None
    ref, state = newest
    assert ref.learner_steps == then["checkpoint"]["learner_steps"]
    check_kept(to_jsonable_python(ref.counters), then["checkpoint"]["counters"])
    assert digest_of_state(state) == then["checkpoint"]["state"]
    snapshots = SnapshotFolder(folder.snapshots)
    assert snapshots.versions() == then["snapshots"]
    latest, best = snapshots.latest(), snapshots.best()
    assert latest is not None
    assert best is not None
    snapshot = snapshots.load(latest)
    assert latest.version == then["latest"]["version"]
    assert snapshot.metadata == then["latest"]["metadata"]
    assert digest_of_arrays(snapshot.tensors) == then["latest"]["tensors"]
    assert digest_of_arrays(read_snapshot(best).tensors) == then["best"]


@pytest.mark.parametrize("name", RUNS)
def test_every_chunk_of_a_run_is_what_it_was(written: Path, expected: dict[str, Any], name: str) -> None:
    check_log(ExperienceLogReader.open(written / "runs" / name / "experience"), expected["runs"][name]["log"])


@pytest.mark.parametrize(("store", "name"), TEACHERS)
def test_a_teacher_of_a_store_is_what_it_was(written: Path, expected: dict[str, Any], store: str, name: str) -> None:
    teachers = store_at(written / store)
    record, then = teachers.get(name), expected[f"{store}_teachers"][name]
    check_teacher(teachers, record, then)


def check_teacher(store: TeacherStore, record: TeacherRecord, then: dict[str, Any], *, revision: bool = True) -> None:
    kept = {key: value for key, value in then["record"].items() if revision or key != "revision"}
    check_kept(record.model_dump(mode="json"), kept)
    store.verify(record)
    assert digest_of_arrays(read_snapshot(store.weights_path(record)).tensors) == then["weights"]
    if then["training_state"] is not None:
        assert digest_of_training(store.training_state(record)) == then["training_state"]
    check_log(store.open_log(record), then["log"])
    load_teacher(record, store)


def test_lineage_shows_what_it_showed(
    written: Path, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(written / "store"))
    assert BUNDLED.is_dir(), "the shipped teacher is in that lineage"
    assert main(["lineage", "--json"]) == 0
    check_kept(json.loads(capsys.readouterr().out), expected["lineage"])


def test_a_bundle_is_taken_into_a_store_of_today(written: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    store = store_at(tmp_path / "store")
    record = import_bundle(store, written / "finished.zip")
    check_teacher(store, record, expected["store_teachers"]["finished"], revision=False)


@pytest.mark.slow
def test_a_stopped_student_is_resumed_from_its_checkpoint_with_its_own_log(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    written, then = unpacked(tmp_path), expected["runs"]["stopped"]
    path = written / "runs" / "stopped"
    steps, frames = (then["checkpoint"]["counters"][name] for name in ("learner_steps", "env_frames"))
    before = sum(phase["env_frames"] for phase in then["phases"])
    run = resume_in_process(path, store_at(written / "store"), f"rl.env_frames={frames - before + 600}")
    phases = to_jsonable_python(run.folder.phases())
    check_kept(phases[: len(then["phases"])], then["phases"])
    assert [phase["phase"] for phase in phases] == ["offline", "online", "rl"]
    assert sum(phase["env_frames"] for phase in phases) >= frames + 600
    assert sum(phase["learner_steps"] for phase in phases) > steps
    log = digests_of_log(ExperienceLogReader.open(path / "experience"))
    assert set(then["log"]["chunks"]) <= set(log["chunks"])
    assert log["transitions"] > then["log"]["transitions"]
