"""Descent of teachers: the graph, the tree in words, the picture."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.lineage import lineage_tree, show_lineage
from orchestrator.reports.lineage_figure import draw
from teacher_store.records.lineage import build_lineage, generations, record_of, relatives, to_json
from teacher_store.records.record import Provenance, Score, Source, TeacherRecord
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError

SCORE = Score(mean_return=5.0, episodes=30, epsilon=0.001, interval_low=3.0, interval_high=7.0)


def record(name: str, *parents: str, provenance: Provenance | None = None) -> TeacherRecord:
    return TeacherRecord(
        id=name,
        name=name,
        env=EnvConfig(),
        network=NetworkConfig(),
        frame_shape=(84, 84),
        frame_stack=4,
        num_actions=6,
        weights=None,
        score=SCORE,
        parents=parents,
        provenance=provenance or Provenance(run_id="run-1", config="seed = 1\n"),
    )


FAMILY = [
    record("dqn", provenance=Provenance(source=Source(format="dopamine-jax", path="ckpt.199", sha256="0" * 64))),
    record("impala", "dqn"),
    record("rainbow", "dqn"),
    record("both", "rainbow", "impala"),
    record("last", "both", "dqn"),
    record("other", "lost"),
]


def test_every_teacher_stands_one_generation_after_the_last_of_its_parents():
    assert generations(build_lineage(FAMILY)) == [["dqn", "lost"], ["impala", "other", "rainbow"], ["both"], ["last"]]


def test_a_parent_that_the_store_lacks_is_in_the_graph_without_a_record():
    graph = build_lineage(FAMILY)
    assert record_of(graph, "lost") is None
    assert record_of(graph, "dqn") == FAMILY[0]


def test_relatives_are_ancestors_and_descendants_but_no_siblings():
    assert set(relatives(build_lineage(FAMILY), "impala")) == {"dqn", "impala", "both", "last"}
    with pytest.raises(UserError, match="nobody"):
        relatives(build_lineage(FAMILY), "nobody")


def test_a_teacher_that_descends_from_itself_is_refused():
    with pytest.raises(CorruptDataError, match="descends from itself"):
        build_lineage([record("a", "b"), record("b", "a")])


def test_programs_get_parents_run_configuration_and_source():
    values = json.loads(json.dumps(to_json(build_lineage(FAMILY))))
    known = {teacher["id"]: teacher for teacher in values["teachers"]}
    assert known["both"]["parents"] == ["rainbow", "impala"]
    assert known["both"]["run_id"] == "run-1"
    assert known["both"]["config_sha256"] == FAMILY[1].provenance.config_sha256
    assert known["dqn"]["source"]["format"] == "dopamine-jax"
    assert known["lost"] == {"id": "lost", "generation": 0, "known": False}
    assert {"teacher": "impala", "student": "both"} in values["taught"]


def test_the_tree_writes_each_teacher_below_its_teachers_and_its_students_once():
    console = Console(width=200)
    with console.capture() as capture:
        console.print(lineage_tree(build_lineage(FAMILY)))
    lines = [line.strip("│├└─ ") for line in capture.get().splitlines()]
    names = [line.split()[0] for line in lines]
    assert names == ["dqn", "impala", "both", "last", "last", "rainbow", "both", "lost", "other"]
    assert "imported from dopamine-jax" in lines[0]
    assert "of 2 teachers" in lines[2]
    assert [line for line in lines if line.endswith("(as above)")] == [lines[6]]
    assert lines[7].endswith("not in this store")


@pytest.mark.parametrize(("kind", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_picture_is_the_same_for_the_same_records(kind: str, magic: bytes):
    data = draw(build_lineage(FAMILY), kind)
    assert data.startswith(magic)
    assert data == draw(build_lineage(reversed(FAMILY)), kind)


def test_an_empty_store_has_a_picture_and_a_tree_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("teacher_store.store.store.BUNDLED", tmp_path / "none")
    assert draw(build_lineage([]), "svg").startswith(b"<?xml")
    assert lineage_tree(build_lineage([])).children == []


def test_the_command_draws_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "teachers"))
    picture = tmp_path / "lineage.svg"
    assert show_lineage("pong-dqn-42", output=picture, as_json=True) == 0
    (teacher,) = json.loads(capsys.readouterr().out)["teachers"]
    assert teacher["name"] == "pong-dqn-42"
    assert picture.read_bytes().startswith(b"<?xml")
    with pytest.raises(UserError, match=r"--output.*\.svg or \.png"):
        show_lineage(None, output=tmp_path / "lineage.pdf", as_json=True)
