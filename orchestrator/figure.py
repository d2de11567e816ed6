"""The learning curve as a picture, and the style of all of them.

Only this module, the other figures (`workflow_figure`, `lineage_figure`) and `contact_sheet` import matplotlib.
"""

import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

STUDENT, TEACHER, CONTROL, RANDOM = "#1d4ed8", "#b45309", "#64748b", "#94a3b8"
_INK: Final = "#1f2937"
STYLE: Final[dict[RcKeyType, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": "#cbd5e1",
    "axes.labelcolor": "#475569",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "text.color": _INK,
    "svg.hashsalt": "upcycle",
    "svg.fonttype": "path",
}

Score = Mapping[str, Any]
Label = tuple[float, str, str]  # height in data units, text, colour


def learning_curve(summary: Mapping[str, Any], control: Mapping[str, Any] | None = None) -> Figure:
    """Mean return of every evaluation with its 95 % interval: the offline phase over learner steps in a strip of its
    own, then the other phases over environment frames, with the teacher's and the random score as lines.

    Args:
      summary: of the run (`orchestrator.summary`).
      control: of a run from scratch, drawn over the same environment frames.
    """
    scores: list[Score] = list(summary["scores"])
    offline = [score for score in scores if score["phase"] == "offline"]
    online = [score for score in scores if score["phase"] != "offline"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        if offline:
            strip, main = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2.6))
            last = max(int(score["learner_steps"]) for score in offline)
            frame_axes(strip, "learner steps", "learner_steps", right=max(last, 1))
            strip.set_ylabel("mean return of whole games")
            main.tick_params(axis="y", length=0)
            _curve(strip, offline, "learner_steps", STUDENT, "-o")
            name_on_top(strip, "offline phase", (0.5, "axes fraction"))
        else:
            main = figure.subplots()
            main.set_ylabel("mean return of whole games")
        played = sum(int(phase["env_frames"]) for phase in summary.get("phases", []))
        limit = max(int(summary["env_frames"]), played, *(int(score["env_frames"]) for score in online), 1)
        frame_axes(main, "environment frames", "env_frames", right=limit)
        labels: list[Label] = []
        if control is not None:
            same_frames = [score for score in control["scores"] if score["env_frames"] <= limit]
            _curve(main, same_frames, "env_frames", CONTROL, "--s")
            labels += [(float(score["mean_return"]), "from scratch", CONTROL) for score in same_frames[-1:]]
        _curve(main, online, "env_frames", STUDENT, "-o")
        if summary["final"] is not None:
            labels.append(_final(main, summary["final"], limit))
        _phase_names(main, summary.get("phases", []))
        teacher = summary.get("teacher")
        levels = [(summary.get("random_score"), "random play", RANDOM)]
        levels += [(teacher["score"] if teacher else None, "teacher", TEACHER)]
        for value, text, color in levels:
            if value is not None:
                for axes in figure.axes:
                    axes.axhline(value, color=color, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
                labels.append((float(value), f"{text} {value:.1f}", color))
        main.margins(y=0.08)
        label_levels(main, labels)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, the same bytes for the same figure; letters are drawn as shapes."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file of about 1,500 pixels width."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.set_dpi(160)
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def frame_axes(axes: Axes, label: str, key: str, *, right: int) -> None:
    """Axes from 0 to `right` on x, over learner steps or environment frames (`key`)."""
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if key == "learner_steps" else 7))
    axes.set_xlim(-0.02 * right, 1.06 * right)


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _curve(axes: Axes, scores: Sequence[Score], key: str, color: str, style: str) -> None:
    if not scores:
        return
    x = [int(score[key]) for score in scores]
    axes.fill_between(
        x,
        [float(score["interval"][0]) for score in scores],
        [float(score["interval"][1]) for score in scores],
        color=color,
        alpha=0.15,
        linewidth=0,
    )
    mean = [float(score["mean_return"]) for score in scores]
    axes.plot(x, mean, style, color=color, linewidth=1.8, markersize=3.8, markeredgecolor="white", markeredgewidth=0.5)


def _final(axes: Axes, final: Mapping[str, Any], x: int) -> Label:
    mean, (low, high) = float(final["mean_return"]), final["interval"]
    spread = [[mean - low], [high - mean]]
    axes.errorbar([x], [mean], spread, color=STUDENT, marker="D", markersize=7, capsize=4, elinewidth=1.6)
    return mean, f"student {mean:.1f}", STUDENT


def label_levels(axes: Axes, labels: Sequence[Label], *, plain: Collection[Label] = ()) -> None:
    """Writes each label right of the axes at its height; labels too close to one another move apart upwards.

    Those in the student's colour are bold, except for the `plain` ones.
    """
    low, high = axes.get_ylim()
    gap, free = 0.055 * (high - low), float("-inf")
    for label in sorted(labels):
        value, text, color = label
        free = max(value, free + gap)
        axes.annotate(
            text,
            (1.0, free),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold" if color == STUDENT and label not in plain else "normal",
            annotation_clip=False,
        )


def _phase_names(axes: Axes, phases: Sequence[Mapping[str, Any]]) -> None:
    """Names the phases along the top; a thin line marks where one gives way to the next."""
    start = 0
    for phase in phases:
        if phase["phase"] == "offline":
            continue
        end = start + int(phase["env_frames"])
        if start:
            axes.axvline(start, color="#cbd5e1", linewidth=1)
        name_on_top(axes, "plain RL" if phase["phase"] == "rl" else "online phase", ((start + end) / 2, "data"))
        start = end


def name_on_top(axes: Axes, text: str, place: tuple[float, str]) -> None:
    """Writes above the axes, at x in the coordinates named."""
    axes.annotate(
        text,
        (place[0], 1.0),
        xycoords=(place[1], "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color="#64748b",
        fontsize=8.5,
        annotation_clip=False,
    )
