import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from orchestrator.cli.app import main
from orchestrator.reports.picture import to_svg
from orchestrator.reports.workflow import Workflow, evaluated_anew, gather
from orchestrator.reports.workflow_designs import WorkflowRun, panel_of
from orchestrator.reports.workflow_figure import workflow_figure
from orchestrator.reports.workflow_report import read_run
from tests.helpers.workflow_runs import (
    CONTROL,
    FINE_TUNED,
    IMPALA,
    REFERENCE,
    REINCARNATED,
    SCRATCH,
    add_run,
    add_workflow,
)
from upcycle.config.io import parse_config
from upcycle.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

LINE = [(0, 0.0), (1_000, 0.5), (2_000, 0.8)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def gathered(runs: Path, *names: str, **options: Any) -> Workflow:
    return gather([read_run(RunFolder.open(runs / name)) for name in names], **options)


def placed(workflow: Workflow) -> list[tuple[str, str, list[str]]]:
    return [(curve.panel, curve.label, [run.name for run in curve.runs]) for curve in workflow.curves]


DESIGNS: list[tuple[dict[str, Any], str]] = [
    (SCRATCH, "scratch"),
    (SCRATCH | {"teacher": {}}, "scratch"),  # a teacher that no phase asks
    (FINE_TUNED, "fine_tuning"),
    (REINCARNATED, "reincarnation"),
    (REINCARNATED | {"phases": ("online", "rl")}, "reincarnation"),
    (REINCARNATED | {"phases": ("offline", "rl")}, "reincarnation"),
]


@pytest.mark.parametrize(("design", "panel"), DESIGNS)
def test_the_panel_follows_from_the_configuration(design: dict[str, Any], panel: str) -> None:
    assert panel_of(parse_config(design)) == panel


def test_seeds_and_games_of_a_design_are_one_curve_in_its_panel(runs: Path) -> None:
    workflow = gathered(runs, *add_workflow(runs))
    curves = placed(workflow)
    assert [curve[:2] for curve in curves] == [
        ("scratch", "from scratch"),
        ("fine_tuning", "fine-tuned"),
        ("reincarnation", "reincarnated"),
        ("reincarnation", "from scratch"),
    ]
    assert curves[2][2] == [f"{game}-student-{seed}" for game in ("pong", "brea") for seed in range(3)]
    assert [curve.is_control for curve in workflow.curves] == [False, False, False, True]
    assert workflow.curves[2].teacher == pytest.approx(1.4)


def test_another_configuration_is_another_curve_and_another_machine_is_not(runs: Path) -> None:
    add_run(runs, "a", SCRATCH, LINE)
    add_run(runs, "b", SCRATCH, LINE, seed=1, cluster={"max_restarts": 9}, learner={"threads": 2, "device": "cpu"})
    add_run(runs, "c", SCRATCH, LINE, learner={"learning_rate": 1e-3})
    workflow = gathered(runs, "a", "c", "b", references={"Pong-v5": 10.0})
    assert placed(workflow) == [
        ("scratch", "from scratch (a)", ["a", "b"]),
        ("scratch", "from scratch (c)", ["c"]),
    ]


def test_two_teachers_on_one_game_make_two_curves(runs: Path) -> None:
    for name, teacher in (("a", "one"), ("b", "two"), ("c", "one")):
        add_run(runs, name, REINCARNATED, LINE, teacher=1.0).replace_config(
            parse_config(REINCARNATED | {"name": name, "teacher": {"id": teacher}})
        )
    assert [curve[2] for curve in placed(gathered(runs, "a", "b", "c"))] == [["a", "c"], ["b"]]


def test_points_lie_where_every_run_has_been_evaluated_anew(runs: Path) -> None:
    def run(*frames: int) -> WorkflowRun:
        name = f"run-{len(list(runs.glob('*')))}"
        return read_run(add_run(runs, name, SCRATCH, [(point, float(point)) for point in frames]))

    first, second = run(0, 0, 100, 200, 300), run(0, 110, 120, 205)
    assert evaluated_anew([first]) == [0, 100, 200, 300]
    assert evaluated_anew([first, second]) == [0, 110, 200, 300]
    assert evaluated_anew([first, second, run(50)]) == [50]
    # Of two evaluations at frame 0 the later one counts: it ends the offline phase.
    assert [first.return_at(frames) for frames in (0, 99, 100, 999)] == [first.returns[i] for i in (1, 1, 2, 4)]


def pooled_iqm(values: list[float]) -> float:
    ordered = sorted(values)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)


def test_the_numbers_are_those_of_the_score_matrix(runs: Path) -> None:
    workflow = gathered(runs, *add_workflow(runs))
    _, tuned, student, control = workflow.curves
    assert workflow.scales["Pong-v5"].reference == pytest.approx(REFERENCE["Pong-v5"])  # the final one, not 0.9
    assert workflow.scales["Pong-v5"].source == "pong-dqn"
    assert student.frames == (0, 10_002, 40_002)
    assert control.frames == (0, 12_000, 39_000)
    ends = [1.8, 1.9, 2.0]
    assert student.iqm == pytest.approx([pooled_iqm([s + shift for s in ends * 2]) for shift in (-0.9, -0.6, 0.0)])
    assert tuned.iqm[-1] == pytest.approx(1.45)
    assert all(low <= iqm <= high for low, iqm, high in zip(student.low, student.iqm, student.high, strict=True))
    assert student.low[-1] < student.iqm[-1] < student.high[-1]
    assert tuned.low == tuned.iqm == tuned.high  # one run a game has no spread
    (improvement,) = workflow.improvements
    assert improvement.frames == 40_002
    # Of the nine pairs of a game, (1.8, 1.95) and (1.9, 1.95) are lost.
    assert improvement.probability == pytest.approx(7 / 9)
    assert improvement.interval is not None
    assert improvement.interval.low <= improvement.probability <= improvement.interval.high


def test_without_a_root_the_teachers_are_the_reference(runs: Path) -> None:
    add_run(runs, "student", REINCARNATED, LINE, teacher=0.8)
    add_run(runs, "control", CONTROL, LINE)
    workflow = gathered(runs, "student", "control")
    assert workflow.scales["Pong-v5"].source == "the teacher"
    assert workflow.scales["Pong-v5"].reference == pytest.approx(4.0)
    assert [(curve.panel, curve.is_control) for curve in workflow.curves] == [
        ("reincarnation", False),
        ("reincarnation", True),
    ]
    assert workflow.curves[0].iqm[-1] == pytest.approx(1.0)


def test_a_run_from_scratch_that_made_the_teacher_is_no_control_though_the_agent_is_the_same(runs: Path) -> None:
    add_run(runs, "first", SCRATCH, LINE, learner={"learning_rate": 1e-3}, network={"width": 2.0})
    teacher = read_run(add_run(runs, "teacher", SCRATCH, [(0, 0.0), (9_000, 0.9)], rl={"env_frames": 9_000}))
    add_run(runs, "control", SCRATCH, LINE)
    student = read_run(add_run(runs, "student", REINCARNATED | {"network": {}, "learner": {}}, LINE, teacher=0.8))
    first, control = (read_run(RunFolder.open(runs / name)) for name in ("first", "control"))
    workflow = gather([first, teacher, control, replace(student, parent=teacher.run_id)])
    assert [(curve.panel, curve.is_control, curve.runs[0].name) for curve in workflow.curves] == [
        ("scratch", False, "first"),
        ("scratch", False, "teacher"),
        ("reincarnation", False, "student"),
        ("reincarnation", True, "control"),
    ]
    assert workflow.scales["Pong-v5"].source == "teacher"
    (pair,) = workflow.improvements
    assert (pair.control, pair.interval) == ("from scratch", None)  # one run each says nothing of their spread


def test_lineage_is_read_from_the_teachers_record(runs: Path, tmp_path: Path) -> None:
    folder = add_run(runs, "student", REINCARNATED, LINE, teacher=0.8)
    assert read_run(folder).parent is None  # its manifest names no store
    for teacher, parent in (("pong-dqn-42", "pong-dqn-559efdbf"), ("gone-01234567", None)):
        folder.update_manifest(teacher={"id": teacher, "score": 8.6, "store": str(tmp_path / "store")})
        assert read_run(folder).parent == parent


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in ("report", *arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_runs_that_do_not_fit_together_are_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def report(*names: str) -> str:
        line = refused(capsys, *names, "--runs", runs)
        assert not list(runs.glob("workflow.*"))
        return line

    add_run(runs, "pong", SCRATCH, LINE, final=1.0)
    add_run(runs, "breakout", SCRATCH | IMPALA, LINE, game="Breakout-v5")
    add_run(runs, "sticky", SCRATCH | IMPALA, LINE, env={"sticky_actions": 0.25})
    add_run(runs, "new", SCRATCH | IMPALA, [])
    add_run(runs, "unknown", SCRATCH | IMPALA, LINE).update_manifest(random_score=None)
    add_run(runs, "hopeless", SCRATCH | IMPALA, [(0, -0.1)])
    assert "its design was not run on Breakout-v5" in report("pong", "breakout")
    assert "evaluated with env.sticky_actions = 0.25, pong with 0.0" in report("pong", "sticky")
    assert "'new': has no evaluation yet" in report("pong", "new")
    assert "does not know the score of random play" in report("pong", "unknown")
    assert "is named twice" in report("pong", "pong")
    assert "not above random play (-20)" in report("hopeless", "pong")
    assert "known runs: " in report("pong", "nobody")


def test_a_reference_is_a_run_or_a_number(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = add_workflow(runs)

    def scales(*arguments: str) -> dict[str, Any]:
        assert main(["report", *arguments, "--runs", str(runs), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["scales"]

    pong = [name for name in names if name.startswith("pong")]
    assert scales(*pong, "--reference", "40")["Pong-v5"] == {"random": -20.0, "reference": 40.0, "source": "40"}
    both = scales(*names, "--reference", "pong-tuned", "--reference", "brea-tuned")
    assert [both[game]["reference"] for game in ("Pong-v5", "Breakout-v5")] == pytest.approx([22.0, 152.0])
    assert both["Pong-v5"]["source"] == "pong-tuned, brea-tuned"
    assert "is one number for several games" in refused(capsys, *names, "--reference", "40", "--runs", runs)
    assert "says nothing about Breakout-v5" in refused(capsys, *names, "--reference", "pong-dqn", "--runs", runs)
    assert "is for several runs" in refused(capsys, "pong-dqn", "--reference", "40", "--runs", runs)
    assert "is for one run" in refused(capsys, *pong, "--control", "pong-dqn", "--runs", runs)
    assert "none is named" in refused(capsys, "--runs", runs)


def test_the_report_of_several_runs_is_three_files_and_its_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = add_workflow(runs)
    assert main(["report", *names, "--runs", str(runs), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert [Path(written[kind]).name for kind in ("html", "svg", "png")] == [
        "workflow.html",
        "workflow.svg",
        "workflow.png",
    ]
    assert (runs / "workflow.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (runs / "workflow.svg").read_text()
    page = (runs / "workflow.html").read_text()
    (improvement,) = written["improvements"]
    low, high = improvement["interval"]
    for words in (
        f"probability {improvement['probability']:.2f} (95 % interval {low:.2f} to {high:.2f})",
        "no band for from scratch, fine-tuned",
        "epsilon 0.001",
        "the version that it gave back",
        "200 offline learner steps",
        "pong-student-0, pong-student-1, pong-student-2",
        "<td>40,002</td>",
        "Versions given back",
        ">pong-dqn</th><td class=words>from scratch</td><td>3</td><td>10.00</td><td>200,000</td><td>400</td><td>0</td>"
        "<td>7.00</td><td>200,000</td>",
        "34.00 (not final)",
        "<td>-20.00</td><td>10.00</td><td>pong-dqn</td>",
    ):
        assert words in page
    student = written["curves"][2]
    assert (student["label"], student["runs_per_game"], student["episodes"]) == ("reincarnated", [3], 10)
    assert student["offline_learner_steps"] == [200]
    assert student["given_back"][0] == {
        "run": "pong-student-0", "mean_return": 34.0, "kind": "evaluation", "policy_version": 3, "phase": "rl",
        "env_frames": 40_000, "learner_steps": 400, "offline_learner_steps": 200,
    }  # fmt: skip
    assert student["iqm"][-1] == pytest.approx(1.9)
    assert main(["report", *names, "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.strip() == str(runs / "workflow.html")
    assert not (runs / "pong-dqn" / "report.html").exists()


def lines(axes: Axes) -> list[list[list[float]]]:
    return [np.asarray(line.get_xydata(), np.float64).round(6).tolist() for line in axes.get_lines()]


def test_the_figure_has_three_panels_with_named_curves(runs: Path) -> None:
    workflow = gathered(runs, *add_workflow(runs))
    figure = workflow_figure(workflow)
    scratch, tuned, reincarnated = figure.axes
    assert [[0.0, 0.0], [50_000.0, 0.6], [200_000.0, 0.9]] in lines(scratch)
    assert [[0.0, 1.0], [10_000.0, 1.2], [20_000.0, 1.45]] in lines(tuned)
    assert {text.get_text() for text in reincarnated.texts} >= {
        "reincarnated 1.90",
        "from scratch 1.35",
        "its teacher 1.40",
        "random play",
        "reference",
    }
    bold = [text.get_text() for text in reincarnated.texts if text.get_fontweight() == "bold"]
    assert bold == ["reincarnated 1.90"]  # and not the level in its colour
    assert to_svg(figure, "w", "a", "b") == to_svg(workflow_figure(workflow), "w", "a", "b")
    narrow = workflow_figure(workflow, narrow=True).axes
    assert [[line for line in lines(axes) if len(line) > 2] for axes in narrow] == [
        [line for line in lines(axes) if len(line) > 2] for axes in figure.axes
    ]
    assert "reincarnated\n1.90" in {text.get_text() for text in narrow[2].texts}
    alone = workflow_figure(gathered(runs, "pong-dqn", references={"Pong-v5": 10.0}))
    assert "no such run given" in {text.get_text() for text in alone.axes[1].texts}
