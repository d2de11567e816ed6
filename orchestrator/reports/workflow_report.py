"""The report of several runs: the workflow's figure, table and numbers, read from their folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from orchestrator.reports.page import figure, folded, html_page, section, table
from orchestrator.reports.picture import as_file, to_png, to_svg
from orchestrator.reports.selected_version import cost_of
from orchestrator.reports.workflow import Curve, Workflow, gather
from orchestrator.reports.workflow_designs import WorkflowRun
from orchestrator.reports.workflow_figure import workflow_figure
from teacher_store.store.store import TeacherStore
from upcycle.errors import UserError
from upcycle.files import write_atomically
from upcycle.runs.run_folder import RunFolder
from upcycle.statistics import Interval

NAME: Final = "workflow"


def write_workflow(runs: Path, names: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """Writes `workflow.html`, `.svg` and `.png` into the folder of the runs and returns their paths with the numbers.

    Args:
      references: what scores 1: names of runs, one for each game, or a mean raw return; see `gather` if empty.
    Raises: UserError if a run does not exist, has no evaluation yet, or does not fit the others.
    """
    read = [read_run(RunFolder.open(runs / name)) for name in names]
    workflow = gather(read, _references(runs, references, read), ", ".join(references))
    drawn = workflow_figure(workflow)
    described = ("workflow", "The workflow in three panels", " ".join([*_words(workflow), caption(workflow)]))
    svg = to_svg(drawn, *described)
    narrow_svg = to_svg(workflow_figure(workflow, narrow=True), "narrow-workflow", *described[1:])
    paths = {kind: runs / f"{NAME}.{kind}" for kind in ("html", "svg", "png")}
    write_atomically(paths["html"], _render(workflow, svg, narrow_svg).encode())
    write_atomically(paths["svg"], as_file(svg))
    write_atomically(paths["png"], to_png(drawn))
    return {kind: str(path) for kind, path in paths.items()} | to_json(workflow)


def read_run(folder: RunFolder) -> WorkflowRun:
    """What a run's files say. Raises: UserError if it has no evaluation, or does not know the random score."""
    config, manifest, scores = folder.config, folder.manifest, folder.scores()
    evaluations = sorted((r for r in scores if r["kind"] == "evaluation"), key=lambda record: int(record["env_frames"]))
    if not evaluations:
        raise UserError("run", folder.path.name, "has no evaluation yet", "wait for the first one, or leave it out")
    if manifest.get("random_score") is None:
        raise UserError("run", folder.path.name, "does not know the score of random play", "leave it out")
    final = ([record for record in scores if record["kind"] == "final"] or evaluations)[-1]
    ended = {phase["phase"]: int(phase["learner_steps"]) for phase in folder.phases()}
    offline = [int(record["learner_steps"]) for record in evaluations if record["phase"] == "offline"]
    teacher = manifest.get("teacher")
    return WorkflowRun(
        name=folder.path.name,
        run_id=str(manifest["run_id"]),
        parent=_parent(teacher),
        config=config,
        random_score=float(manifest["random_score"]),
        teacher_score=None if teacher is None else float(teacher["score"]),
        frames=tuple(int(record["env_frames"]) for record in evaluations),
        returns=tuple(float(record["mean_return"]) for record in evaluations),
        final_return=float(final["mean_return"]),
        offline_steps=ended.get("offline", max(offline, default=0)),
        given_back={
            "kind": final["kind"],
            "policy_version": int(final["policy_version"]),
            **cost_of(final, folder.phases(), config.phases),
        },
    )


def _parent(teacher: Mapping[str, Any] | None) -> str | None:
    """The run that made a manifest's teacher, or None if its store does not hold its record (any more)."""
    if teacher is None or "store" not in teacher:
        return None
    try:
        return TeacherStore(str(teacher["store"])).get(str(teacher["id"])).provenance.run_id
    except UserError:
        return None


def _references(runs: Path, references: Sequence[str], read: Sequence[WorkflowRun]) -> dict[str, float] | None:
    """Mean raw returns by game. Raises: UserError for a number beside other references, or for several games."""
    found = dict[str, float]()
    games = sorted({run.game for run in read})
    for reference in references:
        try:
            value = float(reference)
        except ValueError:
            run = read_run(RunFolder.open(runs / reference))
            found[run.game] = run.final_return
            continue
        if len(games) > 1 or len(references) > 1:
            raise UserError("--reference", reference, "is one number for several games", "name a run for each game")
        found[games[0]] = value
    return found or None


def to_json(workflow: Workflow) -> dict[str, Any]:
    """The numbers of the figure and the table, as plain values."""
    return {
        "scales": {game: asdict(scale) for game, scale in workflow.scales.items()},
        "curves": [
            {
                "panel": curve.panel,
                "label": curve.label,
                "runs": [run.name for run in curve.runs],
                "games": sorted({run.game for run in curve.runs}),
                "given_back": [
                    {"run": run.name, "mean_return": run.final_return, **run.given_back} for run in curve.runs
                ],
                "runs_per_game": _runs_per_game(curve),
                "episodes": curve.runs[0].config.evaluation.episodes,
                "offline_learner_steps": sorted({run.offline_steps for run in curve.runs}),
                "teacher": curve.teacher,
                "frames": list(curve.frames),
                "iqm": list(curve.iqm),
                "low": list(curve.low),
                "high": list(curve.high),
            }
            for curve in workflow.curves
        ],
        "improvements": [
            asdict(pair) | {"interval": [pair.interval.low, pair.interval.high] if pair.interval else None}
            for pair in workflow.improvements
        ],
    }


def _runs_per_game(curve: Curve) -> list[int]:
    """Smallest and largest number of runs on a game, once if they are the same."""
    games = [run.game for run in curve.runs]
    return sorted({min(map(games.count, games)), max(map(games.count, games))})


def _render(workflow: Workflow, svg: str, narrow_svg: str) -> str:
    games = ", ".join(workflow.scales)
    content = (
        figure(svg, narrow_svg, caption(workflow))
        + section("Curves", _curves_table(workflow))
        + section("Versions given back", _versions_table(workflow))
        + section("Scores 0 and 1", _scales_table(workflow))
        + folded("The figure's values", _points_table(workflow))
    )
    runs = " ".join(run.name for curve in workflow.curves for run in curve.runs)
    return html_page("Upcycle workflow report", "Workflow", games, runs, _words(workflow), content, wide=True)


def _words(workflow: Workflow) -> list[str]:
    """A sentence for each pair of a reincarnated design and its control."""
    return [
        f"After {pair.frames:,} environment frames a {pair.student} run scores above the same agent "
        f"{pair.control} with probability {pair.probability:.2f} "
        + (f"(95 % interval {_interval(pair.interval)})." if pair.interval else "(one run each: no interval).")
        for pair in workflow.improvements
    ]


def caption(workflow: Workflow) -> str:
    """How to read the figure: statistic, band, protocol, what is counted and what is not."""
    evaluation = workflow.curves[0].runs[0].config.evaluation
    bands = [curve.label for curve in workflow.curves if max(_runs_per_game(curve)) == 1]
    alone = f" One run alone says nothing of its spread: no band for {', '.join(bands)}." if bands else ""
    offline = [run.offline_steps for curve in workflow.curves for run in curve.runs if run.offline_steps]
    steps = " to ".join(f"{count:,}" for count in sorted({min(offline), max(offline)})) if offline else ""
    extra = f" Reincarnated runs took {steps} offline learner steps before, which play no frames." if offline else ""
    return (
        "Interquartile mean of normalised scores over runs and games, with a point wherever each run has been "
        f"evaluated anew; band: 95 % interval of a bootstrap over the runs within each game.{alone} A score is the "
        f"mean raw return of whole episodes at epsilon {evaluation.epsilon:g}. A run that is the reference counts with "
        "the version that it gave back, the best of all evaluated ones and scored anew: its curve may end below 1. "
        "Frames are those that a run's own actors play: not those of evaluations, nor those that its teacher has had."
        f"{extra}"
    )


def _curves_table(workflow: Workflow) -> str:
    rows: list[tuple[str, ...]] = []
    for curve in workflow.curves:
        end = Interval(curve.low[-1], curve.high[-1])
        rows.append(
            (
                {"scratch": "1", "fine_tuning": "2", "reincarnation": "3"}[curve.panel],
                curve.label,
                ", ".join(run.name for run in curve.runs),
                str(len({run.game for run in curve.runs})),
                " to ".join(map(str, _runs_per_game(curve))),
                " to ".join(map(str, sorted({run.config.evaluation.episodes for run in curve.runs}))),
                " to ".join(f"{steps:,}" for steps in sorted({run.offline_steps for run in curve.runs})),
                f"{curve.frames[-1]:,}",
                f"{curve.iqm[-1]:.3f}",
                _interval(end) if max(_runs_per_game(curve)) > 1 else "",
            )
        )
    head = ("panel", "curve", "runs", "games", "runs a game", "episodes", "offline steps", "frames", "IQM", "95 %")
    return table(head, rows, label="Curves", words=3)


def _versions_table(workflow: Workflow) -> str:
    """Of each run the version that it gave back, with its own cost, beside where its last evaluation stands."""
    rows = [
        (
            run.name,
            curve.label,
            str(run.given_back["policy_version"]),
            f"{run.final_return:.2f}" + ("" if run.given_back["kind"] == "final" else " (not final)"),
            f"{run.given_back['env_frames']:,}",
            f"{run.given_back['learner_steps']:,}",
            f"{run.given_back['offline_learner_steps']:,}",
            f"{run.returns[-1]:.2f}",
            f"{run.frames[-1]:,}",
        )
        for curve in workflow.curves
        for run in curve.runs
    ]
    head = ("run", "curve", "version", "final return", "its frames", "its updates", "of them offline")
    return table((*head, "last evaluation", "after frames"), rows, label="Versions given back", words=2)


def _points_table(workflow: Workflow) -> str:
    rows = [
        (curve.label, f"{frames:,}", f"{iqm:.3f}", _interval(Interval(low, high)))
        for curve in workflow.curves
        for frames, iqm, low, high in zip(curve.frames, curve.iqm, curve.low, curve.high, strict=True)
    ]
    return table(("curve", "frames", "IQM", "95 %"), rows, label="The figure's values")


def _scales_table(workflow: Workflow) -> str:
    rows = [
        (game, f"{scale.random:.2f}", f"{scale.reference:.2f}", scale.source) for game, scale in workflow.scales.items()
    ]
    return table(("game", "0: random play", "1: reference", "of"), rows, label="Scores 0 and 1")


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2f} to {interval.high:.2f}"


def show_workflow(runs: Path, names: Sequence[str], references: Sequence[str], *, as_json: bool) -> int:
    """Writes the report and prints where it is, or paths and numbers."""
    written: Mapping[str, Any] = write_workflow(runs, names, references)
    print(json.dumps(written) if as_json else written["html"])
    return 0
