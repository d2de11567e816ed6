"""`upcycle replay inspect`: what the shards of a running run hold, asked of the shards themselves."""

import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.cli.printing import print_json, print_table
from orchestrator.reports.contact_sheet import SheetPart, contact_sheet
from orchestrator.run.state import describe
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.contents import MAX_WINDOWS, QUANTILES
from replay_service.table.rate_limiter import Flow
from replay_service.wire.inspection_messages import TableInspection
from upcycle.errors import UpcycleError, UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.windows import View
from upcycle.files import write_atomically
from upcycle.runs.run_folder import Record, RunFolder

_FIRST_TABLE: Final = "online"  # every shard has it
_BAR: Final = 24  # characters

Answers = Mapping[int, TableInspection | UpcycleError]
"""By shard: what it holds, or why it does not say."""


def show(path: Path, *, table: str | None, sheet: Path | None, num_windows: int, as_json: bool) -> int:
    """Prints what each table of each shard holds, and writes the contact sheet.

    Raises: UserError if the run is not running or has no such table, or the sheet cannot be written.
    """
    if num_windows > MAX_WINDOWS:
        raise UserError("--windows", num_windows, "are too many for one request", f"ask for {MAX_WINDOWS} at the most")
    folder = RunFolder.open(path)
    answers = _ask(folder, table, num_windows if sheet is not None else 0)
    if sheet is not None:
        _write(sheet, contact_sheet(_sheet_parts(answers)))
    records = {name: {index: _record(answer) for index, answer in shards.items()} for name, shards in answers.items()}
    if as_json:
        print_json({"run": path.name, "tables": records, "sheet": str(sheet) if sheet is not None else None})
        return 0
    for name, shards in records.items():
        _print_shards(name, shards)
    if sheet is not None:
        print(f"sheet: {sheet}")
    return 0


def _ask(folder: RunFolder, table: str | None, num_windows: int) -> dict[str, Answers]:
    """All tables, or one, of all shards."""
    config, name = folder.config, folder.path.name
    state = describe(folder)["state"]
    not_running = UserError(
        "run", name, f"is not running ({state})", f"its replay is in memory while it runs: `upcycle resume {name}`"
    )
    if state not in ("running", "created") or not folder.endpoints("replay"):
        raise not_running
    spec = ChunkSpec.from_json(folder.manifest["chunk_spec"])
    view = View.of_run(config, spec)
    with closing(ShardedReplay(lambda: folder.endpoints("replay"), spec, rng=np.random.default_rng())) as replay:
        first = table or _FIRST_TABLE
        answers: dict[str, Answers] = {first: replay.inspect(first, num_windows, view=view)}
        answering = [answer for answer in answers[first].values() if isinstance(answer, TableInspection)]
        names = {other for answer in answering for other in answer.tables}
        if not names:
            raise not_running
        for other in sorted(names - {first}) if table is None else ():
            answers[other] = replay.inspect(other, num_windows, view=view)
    return answers


def _record(answer: TableInspection | UpcycleError) -> Record:
    """One table of one shard as JSON values."""
    if isinstance(answer, UpcycleError):
        return {"error": str(answer)}
    contents, stats, flow = answer.contents, answer.stats, answer.stats.flow
    return {
        "draining": stats.draining,
        "num_transitions": stats.num_transitions,
        "capacity_steps": stats.capacity_steps,
        "num_chunks": stats.num_chunks,
        "num_drawable": stats.num_drawable,
        "held_bytes": contents.held_bytes,
        "reserved_bytes": contents.reserved_bytes,
        "mass": stats.mass,
        "max_priority": stats.max_priority,
        "num_inserted": stats.num_inserted,
        "num_seeded": stats.num_seeded,
        "num_sampled": stats.num_sampled,
        "limiter": {
            "samples_per_insert": flow.samples_per_insert,
            "samples_per_insert_so_far": stats.samples_per_insert,
            "surplus": flow.surplus,
            "error_buffer_steps": flow.error_buffer_steps,
            "waiting": _who_waits(flow),
        },
        "priorities": {"lower": contents.priorities.lower.tolist(), "count": contents.priorities.count.tolist()},
        "ages": {
            "quantiles": list(QUANTILES),
            "steps": contents.ages.steps.tolist(),
            "seconds": [None if math.isnan(age) else age for age in contents.ages.seconds.tolist()],
        },
        "stalest_policy_version": contents.stalest_policy_version,
        "newest_policy_version": contents.newest_policy_version,
        "annotation_width": stats.annotation_width,
        "num_annotated": stats.num_annotated,
        "num_stale_annotations": stats.num_stale_annotations,
        "num_stale_updates": stats.num_stale_updates,
        "num_duplicate_chunks": stats.num_duplicate_chunks,
        "num_refused_chunks": stats.num_refused_chunks,
    }


def _who_waits(flow: Flow) -> str | None:
    """Which side the shard's account holds back now: it has no room for one more transition of that side."""
    if flow.draining:
        return "nobody, it drains: inserts go elsewhere"
    if flow.num_transitions < flow.min_size_to_sample:
        return "samples wait for the first transitions"
    if flow.samples_per_insert is None:
        return None
    if not flow.may_insert(1):
        return "inserts wait for samples"
    return None if flow.may_sample(1) else "samples wait for inserts"


def _print_shards(name: str, shards: Mapping[int, Record]) -> None:
    columns = {index: record for index, record in shards.items() if "error" not in record}
    cells = [_cells(record) for record in columns.values()]
    if columns:
        rows = [(label, *(lines[label] for lines in cells)) for label in cells[0]]
        print_table(("shard", *map(str, columns)), rows, title=f"table {name}", numbers=True)
    for index, record in shards.items():
        if "error" in record:
            print(f"shard {index} does not answer: {record['error']}")
    lower, count = _added_up(list(columns.values()))
    if len(count):
        print("priorities of all shards, from each value to twice as much:")
        for value, number in zip(lower, count, strict=True):
            bar = "█" * math.ceil(_BAR * number / max(count))
            print(f"{value:>12.4g} {bar:<{_BAR}} {number:,}")


def _added_up(records: list[Record]) -> tuple[list[float], list[int]]:
    """The histograms of several shards as one, without gaps."""
    total = dict[float, int]()
    for record in records:
        for lower, count in zip(record["priorities"]["lower"], record["priorities"]["count"], strict=True):
            total[lower] = total.get(lower, 0) + count
    if not total:
        return [], []
    low, high = int(math.log2(min(total))), int(math.log2(max(total)))
    values = [2.0**exponent for exponent in range(low, high + 1)]
    return values, [total.get(value, 0) for value in values]


def _sheet_parts(answers: Mapping[str, Answers]) -> list[SheetPart]:
    parts = list[SheetPart]()
    for name, shards in answers.items():
        for index, answer in shards.items():
            if isinstance(answer, TableInspection):
                shown = answer.contents.shown
                number = len(shown.priority)
                parts.append(SheetPart(f"table {name}, shard {index}: {number or 'no'} windows", shown))
    return parts


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise UserError("--sheet", str(path), f"cannot be written ({error.strerror})", "name another file") from error


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _cells(record: Record) -> dict[str, str]:
    """What is printed about one table of one shard: label and text of each line."""
    limiter, ratio = record["limiter"], record["limiter"]["samples_per_insert"]
    so_far = f"{limiter['samples_per_insert_so_far']:.3g}"
    return {
        "transitions": f"{_number(record['num_transitions'])} of {_number(record['capacity_steps'])}",
        "of them drawable": _number(record["num_drawable"]),
        "chunks": _number(record["num_chunks"]),
        "memory": f"{record['held_bytes'] / 1e6:,.1f} of {record['reserved_bytes'] / 1e6:,.1f} MB",
        "mass": _number(record["mass"]),
        "inserted, seeded": f"{_number(record['num_inserted'])}, {_number(record['num_seeded'])}",
        "sampled": _number(record["num_sampled"]),
        "samples per insert": "free" if ratio is None else f"{so_far} of {ratio:g}",
        "surplus of inserts": f"{limiter['surplus']:+,.0f} of ±{limiter['error_buffer_steps']:,}" if ratio else "-",
        "who waits": limiter["waiting"] or "nobody",
        "age in transitions since": " / ".join(map(_number, record["ages"]["steps"])) or "-",
        "age in seconds": " / ".join(map(_number, record["ages"]["seconds"])) or "-",
        "policy versions": f"{_number(record['stalest_policy_version'])} to {_number(record['newest_policy_version'])}",
        "highest priority": _number(record["max_priority"]),
        "annotated, stale": f"{_number(record['num_annotated'])}, {_number(record['num_stale_annotations'])}",
        "stale updates": _number(record["num_stale_updates"]),
        "duplicate chunks": _number(record["num_duplicate_chunks"]),
        "refused chunks": _number(record["num_refused_chunks"]),
    }
