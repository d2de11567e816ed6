"""The workflow of several runs in numbers: which of them are one curve, where it belongs, and what it comes to.

    train a teacher from scratch  ->  fine-tune it  ->  reincarnate another agent, beside that agent from scratch

Pure: `workflow_report` reads the runs, `workflow_figure` draws (Figure 1 of Agarwal et al.
2022, arXiv 2206.01626). Scores are normalised to 0 for random play and 1 for a reference, game by game.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np

from orchestrator.reports.workflow_designs import Panel, WorkflowRun, agent_of, check_fit, designs_of, panel_of
from upcycle.errors import UserError
from upcycle.statistics import (
    Interval,
    interquartile_mean,
    interquartile_mean_interval,
    normalised_score,
    probability_of_improvement,
    probability_of_improvement_interval,
)

_MAX_POINTS: Final = 100
_NUM_RESAMPLES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Scale:
    """What scores of a game are measured against: mean raw returns, and whose the reference is."""

    random: float
    reference: float
    source: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Runs of one design: a point for each of `frames`, a band from `low` to `high` around it.

    Attributes:
      is_control: whether it is the reincarnated agent trained from scratch.
      frames: environment frames, as of `evaluated_anew`, thinned out to a hundred.
      teacher: interquartile mean of its teachers' normalised scores; None from scratch.
    """

    panel: Panel
    label: str
    is_control: bool
    runs: tuple[WorkflowRun, ...]
    frames: tuple[int, ...]
    iqm: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    teacher: float | None


@dataclass(frozen=True, slots=True)
class Improvement:
    """How likely a reincarnated run scores above one of its control, after the last frames that both have.

    Attributes:
      interval: of the probability; None where no game has several runs, since one run says nothing of their spread.
    """

    student: str
    control: str
    frames: int
    probability: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Workflow:
    """The whole picture; `scales` by game, curves in the order of their panels."""

    curves: tuple[Curve, ...]
    scales: Mapping[str, Scale]
    improvements: tuple[Improvement, ...]


def gather(runs: Sequence[WorkflowRun], references: Mapping[str, float] | None = None, source: str = "") -> Workflow:
    """Groups runs to curves and computes all numbers.

    Runs of equal configuration, but for name, seed, game, teacher and machine, are one curve. Two teachers on the same
    game make two curves.

    Args:
      references: mean raw return of the reference by game; by default the final one of the runs from scratch that
        others were taught by, or else of the first design in that panel, or else the runs' teachers' scores.
      source: whose `references` are, in words.
    Raises: UserError if the runs do not fit together.
    """
    check_fit(runs)
    designs = designs_of(runs)
    students = {agent_of(group[0].config) for group in designs if panel_of(group[0].config) == "reincarnation"}
    scratch = [group for group in designs if panel_of(group[0].config) == "scratch"]
    parents = {run.parent for run in runs}
    teachers = [group for group in scratch if any(run.run_id in parents for run in group)]
    controls = [group for group in scratch if group not in teachers and agent_of(group[0].config) in students]
    roots = next((group for group in (*teachers, *scratch) if group not in controls), ())
    games = sorted({run.game for run in runs})
    scales = {game: _scale(game, runs, roots, references, source) for game in games}
    order = {"scratch": 0, "fine_tuning": 1, "reincarnation": 2}
    curves = [_curve(group, group in controls, scales) for group in designs]
    curves = _labelled(sorted(curves, key=lambda curve: (order[curve.panel], curve.is_control)))
    pairs = [
        (student, control)
        for student in curves
        for control in curves
        if student.panel == "reincarnation" and control.is_control and not student.is_control
        if agent_of(student.runs[0].config) == agent_of(control.runs[0].config)
    ]
    return Workflow(tuple(curves), scales, tuple(_improvement(*pair, scales) for pair in pairs))


def _scale(
    game: str,
    runs: Iterable[WorkflowRun],
    roots: Sequence[WorkflowRun],
    references: Mapping[str, float] | None,
    source: str,
) -> Scale:
    here = [run for run in runs if run.game == game]
    random = float(np.mean([run.random_score for run in here]))
    teachers = [run.teacher_score for run in here if run.teacher_score is not None]
    roots = [run for run in roots if run.game == game]
    if references is not None:
        if game not in references:
            raise UserError("--reference", source, f"says nothing about {game}", "name a run on that game as well")
        reference = references[game]
    elif roots:
        reference, source = float(np.mean([run.final_return for run in roots])), _names(roots)
    elif teachers:
        reference, source = float(np.mean(teachers)), "the teacher"
    else:
        raise UserError("--reference", None, f"{game} has no teacher to measure by", "name a run or a mean raw return")
    if reference <= random:
        problem = f"{source} scores {reference:g} on {game}, which is not above random play ({random:g})"
        raise UserError("--reference", reference, problem, "name a better run or a mean raw return")
    return Scale(random, reference, source)


def _names(runs: Sequence[WorkflowRun]) -> str:
    return ", ".join(run.name for run in runs)


def _curve(runs: tuple[WorkflowRun, ...], is_control: bool, scales: Mapping[str, Scale]) -> Curve:
    frames = evaluated_anew(runs)
    if len(frames) > _MAX_POINTS:
        frames = [frames[round(i * (len(frames) - 1) / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]
    points = [scores_at(runs, point, scales) for point in frames]
    intervals = [interquartile_mean_interval(games, num_resamples=_NUM_RESAMPLES) for games in points]
    taught = [run.teacher_score for run in runs]
    teachers = [_normalise(run, score, scales) for run, score in zip(runs, taught, strict=True) if score is not None]
    return Curve(
        panel="reincarnation" if is_control else panel_of(runs[0].config),
        label="",
        is_control=is_control,
        runs=runs,
        frames=tuple(frames),
        iqm=tuple(interquartile_mean(games) for games in points),
        low=tuple(interval.low for interval in intervals),
        high=tuple(interval.high for interval in intervals),
        teacher=interquartile_mean([teachers]) if teachers else None,
    )


def evaluated_anew(runs: Sequence[WorkflowRun]) -> list[int]:
    """Environment frames, ascending, by which every run has been evaluated since the ones before; at least one.

    Runs are evaluated at frames of their own. In this way no score is older than one evaluation, none is made up, and
    a run that stopped early ends the list.
    """
    evaluations = sorted((frames, index) for index, run in enumerate(runs) for frames in run.frames)
    points, waiting = list[int](), set(range(len(runs)))
    for frames, group in groupby(evaluations, key=itemgetter(0)):
        waiting -= {index for _, index in group}
        if not waiting:
            points.append(frames)
            waiting = set(range(len(runs)))
    return points


def scores_at(runs: Sequence[WorkflowRun], frames: int, scales: Mapping[str, Scale]) -> list[list[float]]:
    """The score matrix after so many frames: normalised scores of the runs of each game, games in order of name."""
    games = sorted({run.game for run in runs})
    return [[_normalise(run, run.return_at(frames), scales) for run in runs if run.game == game] for game in games]


def _normalise(run: WorkflowRun, mean_return: float, scales: Mapping[str, Scale]) -> float:
    scale = scales[run.game]
    return normalised_score(mean_return, random=scale.random, reference=scale.reference)


def _labelled(curves: Sequence[Curve]) -> list[Curve]:
    """Names curves by what they are; where a panel has several of a kind, by their first run as well."""
    words = {"scratch": "from scratch", "fine_tuning": "fine-tuned", "reincarnation": "reincarnated"}
    kinds = [("from scratch" if curve.is_control else words[curve.panel], curve.panel) for curve in curves]
    labelled = list[Curve]()
    for curve, kind in zip(curves, kinds, strict=True):
        label = kind[0] if kinds.count(kind) == 1 else f"{kind[0]} ({curve.runs[0].name})"
        labelled.append(replace(curve, label=label))
    return labelled


def _improvement(student: Curve, control: Curve, scales: Mapping[str, Scale]) -> Improvement:
    frames = evaluated_anew((*student.runs, *control.runs))[-1]
    x, y = scores_at(student.runs, frames, scales), scores_at(control.runs, frames, scales)
    alone = all(len(game) == 1 for game in (*x, *y))
    interval = None if alone else probability_of_improvement_interval(x, y, num_resamples=_NUM_RESAMPLES)
    return Improvement(student.label, control.label, frames, probability_of_improvement(x, y), interval)
