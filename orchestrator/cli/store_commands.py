"""The verbs of `upcycle teacher` that are about the store itself: export, remove, gc.

Each raises UserError or CorruptDataError before it prints anything; `as_json` prints one JSON value for programs.
"""

import json
from pathlib import Path

from teacher_store.store.bundle import export_bundle
from teacher_store.store.garbage import collect_garbage as collect
from teacher_store.store.store import TeacherStore


def export(name: str, output: Path, *, as_json: bool) -> None:
    """Writes a teacher into one file."""
    record = export_bundle(TeacherStore.default(), name, output)
    size = output.stat().st_size
    if as_json:
        print(json.dumps({"id": record.id, "output": str(output), "bytes": size}))
    else:
        print(f"{output}: {record.id}, {size:,} bytes, under licence {record.licence}")


def remove(name: str, *, as_json: bool) -> None:
    """Takes a teacher out of the list."""
    record = TeacherStore.default().remove(name)
    if as_json:
        print(json.dumps({"id": record.id}))
    else:
        print(f"{record.id} is removed; `upcycle teacher gc` will free its files")


def collect_garbage(*, hours: float, dry_run: bool, as_json: bool) -> None:
    """Frees what nobody needs."""
    store = TeacherStore.default()
    report = collect(store, keep_seconds=hours * 3600, dry_run=dry_run)
    if as_json:
        values = {"names": report.names, "bytes": report.freed_bytes, "complete": report.complete, "dry_run": dry_run}
        print(json.dumps(values))
        return
    for name in report.names:
        print(name)
    done = "would go" if dry_run else "deleted"
    rest = "" if report.complete else "; there is more, give the same command again"
    print(f"{len(report.names)} {done} from {store.location}, {report.freed_bytes:,} bytes{rest}")
