"""`upcycle lineage`: the descent of teachers as a tree in the terminal, as JSON, and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.text import Text
from rich.tree import Tree

from orchestrator.cli.printing import literal, print_json, result_console
from teacher_store.records.description import describe_cost, describe_origin, describe_score
from teacher_store.records.lineage import build_lineage, generations, record_of, relatives, to_json
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.errors import UserError
from upcycle.files import write_atomically

if TYPE_CHECKING:
    from networkx import DiGraph

FORMATS: Final = ("svg", "png")


def show_lineage(name: str | None, *, output: Path | None, as_json: bool) -> int:
    """Prints who descends from whom, of all teachers or of one with its relatives, and draws it into `output`.

    Raises: UserError if there is no such teacher, or `output` is to be no SVG or PNG file.
    """
    if output is not None and output.suffix.lstrip(".") not in FORMATS:
        raise UserError("--output", str(output), "is no picture that can be drawn", "end it in .svg or .png")
    store = TeacherStore.default()
    graph = build_lineage(store.known())
    if name is not None:
        graph = relatives(graph, store.get(name).id)
    if output is not None:
        from orchestrator.reports.lineage_figure import draw

        write_atomically(output, draw(graph, output.suffix.lstrip(".")))
    if as_json:
        print_json(to_json(graph) | {"picture": None if output is None else str(output)})
        return 0
    if len(graph):
        result_console().print(lineage_tree(graph))
    else:
        print("The store is empty: `upcycle teacher import` fills it.")
    if output is not None:
        print(f"drawn into {output}")
    return 0


def lineage_tree(graph: "DiGraph[str]") -> Tree:
    """Every teacher below its teachers; who has several is written out below the first of them alone."""
    tree, written = Tree("teachers", hide_root=True), set[str]()

    def add(below: Tree, identity: str) -> None:
        again = identity in written
        written.add(identity)
        children = sorted(graph.successors(identity))
        line = _line(identity, record_of(graph, identity), sorted(graph.predecessors(identity)))
        branch = below.add(Text.assemble(line, literal(" (as above)" if again and children else "", "dim")))
        for child in [] if again else children:
            add(branch, child)

    for identity in (generations(graph) or [[]])[0]:
        add(tree, identity)
    return tree


def _line(identity: str, record: TeacherRecord | None, parents: list[str]) -> Text:
    if record is None:
        return Text.assemble(literal(identity), literal("  not in this store", "dim"))
    cost = f"; {known}" if (known := describe_cost(record)) else ""
    several = f"  of {len(parents)} teachers" if len(parents) > 1 else ""
    rest = literal(f"  {describe_origin(record)}{cost}{several}", "dim")
    return Text.assemble(literal(identity, "bold"), literal(f"  {describe_score(record)}"), rest)
