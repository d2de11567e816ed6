"""The workflow in three panels, after Figure 1 of Agarwal et al. 2022 (arXiv 2206.01626)."""

from collections.abc import Sequence
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.reports.palette import LIGHT
from orchestrator.reports.run_figure import (
    CONTROL,
    RANDOM,
    STUDENT,
    STYLE,
    TEACHER,
    Label,
    frame_axes,
    in_two_lines,
    label_levels,
    name_on_top,
)
from orchestrator.reports.workflow import Curve, Workflow
from orchestrator.reports.workflow_designs import Panel

TITLES: Final[dict[Panel, str]] = {
    "scratch": "1  train a teacher from scratch",
    "fine_tuning": "2  fine-tune it",
    "reincarnation": "3  reincarnate another agent",
}
_COLORS: Final[dict[Panel, tuple[str, ...]]] = {
    "scratch": (TEACHER, LIGHT["scratch-2"], LIGHT["scratch-3"]),
    "fine_tuning": (LIGHT["tuned-1"], LIGHT["tuned-2"], LIGHT["tuned-3"]),
    "reincarnation": (STUDENT, LIGHT["student-2"], LIGHT["student-3"]),
}
_CONTROLS: Final = (CONTROL, LIGHT["control-2"])


def workflow_figure(workflow: Workflow, *, narrow: bool = False) -> Figure:
    """Interquartile mean of normalised scores over environment frames with its band, each curve named at its end.

    Dashed lines are random play, the reference, and the curve's own teacher where that is another. In a narrow one the
    panels stand below one another, and labels have two lines.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 9.6) if narrow else (13.2, 4.4), layout="constrained")
        panels = figure.subplots(3, 1, sharey=True) if narrow else figure.subplots(1, 3, sharey=True)
        for axes, panel in zip(panels, TITLES, strict=True):
            _panel(axes, panel, [curve for curve in workflow.curves if curve.panel == panel])
        for axes in figure.axes:
            axes.margins(y=0.08)
        figure.axes[1 if narrow else 0].set_ylabel("normalised score (interquartile mean)")
        for axes, panel in zip(figure.axes, TITLES, strict=True):
            curves, levels = _labels([curve for curve in workflow.curves if curve.panel == panel])
            if narrow:
                curves, levels = in_two_lines(curves), in_two_lines(levels)
            label_levels(axes, [*curves, *levels], plain=levels, gap=0.15 if narrow else 0.06)
    return figure


def _panel(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    right = max((curve.frames[-1] for curve in curves), default=1)
    frame_axes(axes, "environment frames", "env_frames", right=max(right, 1), ticks=5)
    name_on_top(axes, TITLES[panel], (0.5, "axes fraction"))
    for level, color in ((0.0, RANDOM), (1.0, TEACHER)):
        axes.axhline(level, color=color, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    if not curves:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no such run given", transform=axes.transAxes, ha="center", va="center", color=CONTROL)
    for curve, color in zip(curves, _colors(curves), strict=True):
        style = "--s" if curve.is_control else "-o"
        axes.plot(
            curve.frames, curve.iqm, style, color=color, linewidth=1.8, markersize=3.2, markeredgecolor=LIGHT["surface"]
        )
        axes.fill_between(curve.frames, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
        if curve.teacher is not None and abs(curve.teacher - 1) > 0.01:
            axes.axhline(curve.teacher, color=color, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)


def _labels(curves: Sequence[Curve]) -> tuple[list[Label], list[Label]]:
    """Names right of the panel: its curves at their last points, and the levels."""
    ends = list[Label]()
    levels: list[Label] = [(0.0, "random play", RANDOM), (1.0, "reference", TEACHER)]
    for curve, color in zip(curves, _colors(curves), strict=True):
        ends.append((curve.iqm[-1], f"{curve.label} {curve.iqm[-1]:.2f}", color))
        if curve.teacher is not None and abs(curve.teacher - 1) > 0.01:
            levels.append((curve.teacher, f"its teacher {curve.teacher:.2f}", color))
    return ends, levels


def _colors(curves: Sequence[Curve]) -> list[str]:
    """A colour for each curve of a panel; controls are grey."""
    colors = list[str]()
    for curve in curves:
        palette = _CONTROLS if curve.is_control else _COLORS[curve.panel]
        before = sum(color in palette for color in colors)
        colors.append(palette[before % len(palette)])
    return colors
