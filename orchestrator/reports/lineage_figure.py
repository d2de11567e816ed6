"""The descent of teachers as a picture: generations from left to right, an arrow from each teacher to its student."""

from typing import TYPE_CHECKING, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from orchestrator.reports.palette import LIGHT
from orchestrator.reports.picture import as_file, to_png, to_svg
from orchestrator.reports.run_figure import CONTROL, STUDENT, STYLE, TEACHER
from teacher_store.records.description import describe_cost, describe_score
from teacher_store.records.lineage import generations, record_of
from teacher_store.records.record import TeacherRecord

if TYPE_CHECKING:
    from networkx import DiGraph

_COLUMN, _ROW, _WIDTH, _HEIGHT = 3.4, 1.3, 2.7, 1.02  # inches
_DPI: Final = 144


def draw(graph: "DiGraph[str]", kind: str) -> bytes:
    """The picture as an SVG or PNG file; the same graph gives the same bytes.

    Args:
      graph: as `teacher_store.records.lineage.build_lineage` returns it.
      kind: "svg" or "png".
    """
    places = _places(graph)
    columns = 1 + max((x for x, _ in places.values()), default=0)
    rows = 1 + max((y for _, y in places.values()), default=0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_COLUMN * columns, _ROW * rows + 0.3))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-_COLUMN / 2, _COLUMN * (columns - 0.5)), ylim=(-_ROW * rows + _ROW / 2 - 0.15, _ROW / 2 + 0.15))
        axes.set_axis_off()
        for teacher, student in sorted(graph.edges):
            _arrow(axes, places[teacher], places[student])
        for identity, place in places.items():
            _box(axes, place, identity, record_of(graph, identity))
    if kind == "svg":
        return as_file(to_svg(figure, "lineage", "The descent of teachers", _describe(graph)))
    return to_png(figure, dpi=_DPI)


def _describe(graph: "DiGraph[str]") -> str:
    """The picture in words."""
    edges = [f"{teacher} taught {student}" for teacher, student in sorted(graph.edges)]
    alone = [f"{identity} descends from nobody here" for identity in sorted(graph) if not graph.in_degree(identity)]
    return "; ".join([*alone, *edges]) + "."


def _places(graph: "DiGraph[str]") -> dict[str, tuple[int, float]]:
    """Column and row of each node: its generation, and in it the mean row of its teachers, as far as there is room."""
    places: dict[str, tuple[int, float]] = {}
    for column, ids in enumerate(generations(graph)):
        wanted = {
            identity: sum(places[parent][1] for parent in graph.predecessors(identity)) / graph.in_degree(identity)
            if graph.in_degree(identity)
            else 0.0
            for identity in ids
        }
        row = 0.0
        for identity in sorted(ids, key=lambda identity: (wanted[identity], identity)):
            row = max(row, wanted[identity])
            places[identity] = column, row
            row += 1.0
    return places


def _at(place: tuple[int, float]) -> tuple[float, float]:
    return place[0] * _COLUMN, -place[1] * _ROW


def _arrow(axes: Axes, teacher: tuple[int, float], student: tuple[int, float]) -> None:
    (x, y), (u, v) = _at(teacher), _at(student)
    style = {"arrowstyle": "-|>", "color": CONTROL, "linewidth": 1.2, "connectionstyle": "arc3,rad=0.0"}
    axes.annotate("", xy=(u - _WIDTH / 2, v), xytext=(x + _WIDTH / 2, y), arrowprops=style, zorder=0)


def _box(axes: Axes, place: tuple[int, float], identity: str, record: TeacherRecord | None) -> None:
    x, y = _at(place)
    lines = ["not in this store"]
    color = CONTROL
    if record is not None:
        color = STUDENT if record.parents else TEACHER
        origin = record.provenance.source
        made_by = f"from {origin.format}" if origin is not None else record.provenance.run_id or ""
        lines = [f"{record.env.task}  {describe_score(record)}", made_by, describe_cost(record)]
    box = FancyBboxPatch(
        (x - _WIDTH / 2, y - _HEIGHT / 2),
        _WIDTH,
        _HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.1",
        facecolor=LIGHT["surface"],
        edgecolor=color,
        linewidth=1.4,
        linestyle="-" if record is not None else ":",
        zorder=1,  # over arrows that pass a generation by
    )
    axes.add_patch(box)
    axes.text(x, y + 0.31, _short(identity), ha="center", va="center", weight="bold", color=color, fontsize=9)
    for number, line in enumerate(lines):
        axes.text(x, y + 0.08 - 0.2 * number, _short(line), ha="center", va="center", fontsize=7.5, color=LIGHT["axis"])


def _short(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
