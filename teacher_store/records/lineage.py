"""Who was reincarnated from whom. Pure: records in, a graph out.

A teacher may have several teachers, so descent is a graph without cycles and not a tree. Parents that the store does
not know are in it as well, by their ids.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import networkx as nx

from teacher_store.records.record import TeacherRecord
from upcycle.errors import CorruptDataError, UserError


def build_lineage(records: Iterable[TeacherRecord]) -> "nx.DiGraph[str]":
    """The graph of all records and of the parents that they name.

    Raises: CorruptDataError if a teacher descends from itself: its record has been tampered with.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    for record in sorted(records, key=lambda record: record.id):
        graph.add_node(record.id, record=record)
        for parent in record.parents:
            if parent not in graph:
                graph.add_node(parent, record=None)
            graph.add_edge(parent, record.id)
    if not nx.is_directed_acyclic_graph(graph):
        cycle = " -> ".join(edge[0] for edge in cast(list[tuple[str, str]], nx.find_cycle(graph)))
        raise CorruptDataError(f"teacher store: a teacher descends from itself: {cycle}")
    return graph


def relatives(graph: "nx.DiGraph[str]", identity: str) -> "nx.DiGraph[str]":
    """The part of a lineage that a teacher descends from, that descends from it, and itself.

    Raises: UserError if it is not in the graph.
    """
    if identity not in graph:
        raise UserError("teacher", identity, "has no record", "see `upcycle teacher list`")
    family = {identity, *nx.ancestors(graph, identity), *nx.descendants(graph, identity)}
    return graph.subgraph(family).copy()


def record_of(graph: "nx.DiGraph[str]", identity: str) -> TeacherRecord | None:
    """The record of a node, None of a parent that the store does not know."""
    return cast(Mapping[str, TeacherRecord | None], graph.nodes[identity])["record"]


def generations(graph: "nx.DiGraph[str]") -> list[list[str]]:
    """Ids by generation: those without parents first, every other one right after the last of its parents."""
    return [sorted(generation) for generation in nx.topological_generations(graph)]


def to_json(graph: "nx.DiGraph[str]") -> dict[str, object]:
    """Nodes and edges as plain values, for programs."""
    return {
        "teachers": [
            _node(identity, generation, record_of(graph, identity))
            for generation, ids in enumerate(generations(graph))
            for identity in ids
        ],
        "taught": [{"teacher": teacher, "student": student} for teacher, student in sorted(graph.edges)],
    }


def _node(identity: str, generation: int, record: TeacherRecord | None) -> dict[str, object]:
    if record is None:
        return {"id": identity, "generation": generation, "known": False}
    made = record.provenance
    return {
        "id": identity,
        "generation": generation,
        "known": True,
        "name": record.name,
        "task": record.env.task,
        "policy": record.describe_policy(),
        "score": None if record.score is None else record.score.mean_return,
        "parents": list(record.parents),
        "run_id": made.run_id,
        "config_sha256": made.config_sha256,
        "source": None if made.source is None else made.source.model_dump(mode="json"),
    }
