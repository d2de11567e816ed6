"""Teachers of other stores, from their bundles."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from teacher_store.importers.formats.upcycle_bundle import open_bundle
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.records.lineage import build_lineage
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import build_described_network, load_teacher
from upcycle.errors import CorruptDataError, UserError


def import_bundle(store: TeacherStore, path: Path) -> TeacherRecord:
    """Adds the teacher of a bundle, with id, score, provenance, and the records of its ancestors.

    Everything is read before the store is touched: checksums, weights against the network, the log chunk by chunk.

    Raises: UserError if the store has this teacher, or its lineage and the store's contradict each other;
      CorruptDataError naming what is damaged.
    """
    bundle = open_bundle(SourceFiles(path))
    record = bundle.record
    _check_new(store, record, bundle.ancestors)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=store.staging) as folder:
        files = bundle.extract(Path(folder) / "teacher")
        unpacked = TeacherStore(Path(folder), bundled=None)
        unpacked.verify(record)
        if record.network is not None:
            _check_size(record)
            load_teacher(record, unpacked)
        return store.add(record, files, bundle.ancestors)


def _check_new(store: TeacherStore, record: TeacherRecord, ancestors: Sequence[TeacherRecord]) -> None:
    """Raises UserError if the store has it, CorruptDataError if its descent contradicts what the store knows."""
    if record.id in {known.id for known in store.list()}:
        raise UserError("teacher", record.id, "is in the store already", "use the one that is there")
    known = {known.id: known for known in store.known()}
    build_lineage({**{ancestor.id: ancestor for ancestor in ancestors}, **known, record.id: record}.values())


def _check_size(record: TeacherRecord) -> None:
    """Raises CorruptDataError if the network has more parameters than its weight file has bytes; allocates nothing."""
    with torch.device("meta"):
        network = build_described_network(record)
    count = sum(parameter.numel() for parameter in network.parameters())
    if record.weights is None or count > record.weights.bytes:
        raise CorruptDataError(
            f"teacher {record.id}: its network has {count:,} parameters, its weight file fewer bytes"
        )
