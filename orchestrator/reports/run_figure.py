"""The learning curve as a picture, and the style of all of them.

Only this module, the other figures (`workflow_figure`, `lineage_figure`) and `contact_sheet` import matplotlib; how a
figure becomes a file is in `picture`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import matplotlib
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from orchestrator.reports.palette import LIGHT
from orchestrator.reports.selected_version import end_of

STUDENT, TEACHER, CONTROL, RANDOM = (LIGHT[name] for name in ("student", "teacher", "control", "random"))
STYLE: Final[dict[RcKeyType, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "figure.facecolor": LIGHT["surface"],
    "axes.facecolor": LIGHT["surface"],
    "axes.edgecolor": LIGHT["edge"],
    "axes.labelcolor": LIGHT["axis"],
    "xtick.color": LIGHT["axis"],
    "ytick.color": LIGHT["axis"],
    "text.color": LIGHT["ink"],
    "svg.hashsalt": "upcycle",
    "svg.fonttype": "path",
}
_HALO: Final = [patheffects.withStroke(linewidth=3, foreground=LIGHT["surface"])]

Score = Mapping[str, Any]
Label = tuple[float, str, str]  # height in data units, text, colour


def learning_curve(
    summary: Mapping[str, Any], control: Mapping[str, Any] | None = None, *, narrow: bool = False
) -> Figure:
    """Mean return of every evaluation with its 95 % interval: the offline phase over learner steps in a strip of its
    own, then the other phases over environment frames, with the teacher's and the random score as lines.

    A diamond marks the version given back where it stood, with its final score; a ring the run's last evaluation, of
    a run that has not ended with its interval.

    Args:
      summary: of the run (`orchestrator.reports.summary`).
      control: of a run from scratch, drawn over the same environment frames.
      narrow: for a column of a telephone's width: the strip lies above, labels have two lines.
    """
    scores, phases, final = list[Score](summary["scores"]), summary.get("phases", []), summary["final"]
    offline = [score for score in scores if score["phase"] == "offline"]
    online = [score for score in scores if score["phase"] != "offline"]
    updates = [int(phase["learner_steps"]) for phase in phases if phase["phase"] == "offline"]
    updates += [int(score["learner_steps"]) for score in offline]
    updates += [int(final["learner_steps"])] if final is not None and final["phase"] == "offline" else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_size(narrow=narrow, strip=bool(updates)), layout="constrained")
        strip, main = _axes(figure, narrow=narrow, strip=bool(updates))
        if strip is not None:
            frame_axes(strip, "updates", "learner_steps", right=max(*updates, 1))
            _curve(strip, offline, "learner_steps", STUDENT, "-o")
            name_on_top(strip, "offline phase", (0.5, "axes fraction"))
        played = sum(int(phase["env_frames"]) for phase in phases)
        limit = max(int(summary["env_frames"]), played, *(int(score["env_frames"]) for score in online), 1)
        frame_axes(main, "environment frames", "env_frames", right=limit, ticks=4 if narrow else 7)
        labels: list[Label] = []
        if control is not None:
            same_frames = [score for score in control["scores"] if score["env_frames"] <= limit]
            _curve(main, same_frames, "env_frames", CONTROL, "--s")
            labels += [(float(score["mean_return"]), "from scratch", CONTROL) for score in same_frames[-1:]]
        _curve(main, online, "env_frames", STUDENT, "-o")
        plain = _end(main, strip, summary)
        if final is not None:
            labels.append(_given_back(main, strip, final))
        _phase_names(main, phases, least=0.25 * limit if narrow else 0.1 * limit)
        labels += [*plain, *_levels(figure, summary)]
        main.margins(y=0.24 if narrow else 0.14)  # the marked version's name needs some room
        if narrow:
            labels, plain = in_two_lines(labels), in_two_lines(plain)
        label_levels(main, labels, plain=plain, gap=0.17 if narrow else 0.06)
    return figure


def _size(*, narrow: bool, strip: bool) -> tuple[float, float]:
    """In inches. Pages give wide figures 640 to 920 pixels, narrow ones 300 to 420."""
    if narrow:
        return 3.7, 5.4 if strip else 3.3
    return 8.8, 4.4


def _axes(figure: Figure, *, narrow: bool, strip: bool) -> tuple[Axes | None, Axes]:
    if not strip:
        main = figure.subplots()
        main.set_ylabel("mean return of whole games")
        return None, main
    if narrow:
        above, main = figure.subplots(2, 1, sharey=True, height_ratios=(1, 1.5))
        figure.supylabel("mean return of whole games", fontsize=10, color=LIGHT["axis"])
        return above, main
    left, main = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2.6))
    left.set_ylabel("mean return of whole games")
    main.tick_params(axis="y", length=0)
    return left, main


def _levels(figure: Figure, summary: Mapping[str, Any]) -> list[Label]:
    teacher, labels = summary.get("teacher"), list[Label]()
    levels = [(summary.get("random_score"), "random play", RANDOM)]
    levels += [(teacher["score"] if teacher else None, "teacher", TEACHER)]
    for value, text, color in levels:
        if value is not None:
            for axes in figure.axes:
                axes.axhline(value, color=color, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
            labels.append((float(value), f"{text} {value:.1f}", color))
    return labels


def in_two_lines(labels: Sequence[Label]) -> list[Label]:
    """The last word, which is a number where there is one, below the others."""
    return [(height, "\n".join(text.rsplit(" ", 1)), color) for height, text, color in labels]


def frame_axes(axes: Axes, label: str, key: str, *, right: int, ticks: int = 7) -> None:
    """Axes from 0 to `right` on x, over learner steps or environment frames (`key`); ticks are whole numbers."""
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=LIGHT["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=min(4, ticks) if key == "learner_steps" else ticks, integer=True, steps=[1, 2, 2.5, 5, 10])
    )
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
    axes.plot(
        x,
        mean,
        style,
        color=color,
        linewidth=1.8,
        markersize=3.8,
        markeredgecolor=LIGHT["surface"],
        markeredgewidth=0.5,
    )


def _given_back(main: Axes, strip: Axes | None, final: Mapping[str, Any]) -> Label:
    """Marks the version given back where it stood, and leads from there to its label."""
    mean, (low, high) = float(final["mean_return"]), final["interval"]
    name = "given back" if final["kind"] == "final" else "newest"
    label = mean, f"{name} {mean:.1f}", STUDENT
    steps = final["learner_steps"] if strip is not None and final["phase"] == "offline" else None
    axes, x = (main, final["env_frames"]) if strip is None or steps is None else (strip, steps)
    if x is None:  # an old summary does not say
        return label
    right = axes.get_xlim()[1]
    axes.plot([x, right], [mean, mean], color=STUDENT, linewidth=1.2, linestyle=(0, (1, 2)), zorder=2)
    if axes is not main:
        main.axhline(mean, color=STUDENT, linewidth=1.2, linestyle=(0, (1, 2)), zorder=2)
    spread = [[mean - low], [high - mean]]
    marker, filling = ("D", STUDENT) if final["kind"] == "final" else ("o", LIGHT["surface"])
    bars: dict[str, Any] = {"capsize": 4, "elinewidth": 1.6, "zorder": 5, "color": STUDENT}
    axes.errorbar([x], [mean], spread, marker=marker, markersize=7.5, markerfacecolor=filling, **bars)
    side = "left" if x < 0.3 * right else "right" if x > 0.7 * right else "center"
    axes.annotate(
        f"version {final['policy_version']}",
        (x, high),
        xytext=(0, 5),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=STUDENT,
        fontweight="bold",
        path_effects=_HALO,
        zorder=6,
    )
    return label


def _end(main: Axes, strip: Axes | None, summary: Mapping[str, Any]) -> list[Label]:
    """Marks the run's last evaluation, if it is of another version than the one given back."""
    last = end_of(summary)
    if last is None:
        return []
    offline = strip is not None and last["phase"] == "offline"
    axes, key = (strip, "learner_steps") if offline and strip is not None else (main, "env_frames")
    mean = float(last["mean_return"])
    axes.plot(
        [int(last[key])],
        [mean],
        "o",
        color=STUDENT,
        markersize=8,
        markerfacecolor=LIGHT["surface"],
        markeredgewidth=1.8,
        zorder=4,
    )
    return [(mean, f"run's last {mean:.1f}", STUDENT)]


def label_levels(axes: Axes, labels: Sequence[Label], *, plain: Collection[Label] = (), gap: float = 0.06) -> None:
    """Writes each label right of the axes at its height, those too close to one another apart by `gap` of the axes.

    Those in the student's colour are bold, except for the `plain` ones.
    """
    low, high = axes.get_ylim()
    ordered = sorted(labels)
    places = spread([label[0] for label in ordered], gap=gap * (high - low), top=high)
    for label, place in zip(ordered, places, strict=True):
        _, text, color = label
        axes.annotate(
            text,
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold" if color == STUDENT and label not in plain else "normal",
            linespacing=1.05,
            annotation_clip=False,
        )


def spread(heights: Sequence[float], *, gap: float, top: float) -> list[float]:
    """Ascending heights at least `gap` apart, each as near to its own as those below allow, none above `top`."""
    places = list[float]()
    for height in heights:
        places.append(max(height, places[-1] + gap) if places else height)
    limit = top
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    return places


def _phase_names(axes: Axes, phases: Sequence[Mapping[str, Any]], *, least: float) -> None:
    """Names the phases along the top, those of `least` frames or more; a thin line marks where one gives way."""
    start = 0
    for phase in phases:
        if phase["phase"] == "offline":
            continue
        end = start + int(phase["env_frames"])
        if start:
            axes.axvline(start, color=LIGHT["edge"], linewidth=1)
        if end - start >= least:
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
        color=LIGHT["soft"],
        fontsize=9.5,
        annotation_clip=False,
    )
