"""`report.html`: what a run came to, in one file that needs nothing else."""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from orchestrator.figure import learning_curve, to_svg
from orchestrator.summary import Summary, format_seconds, plain_words, read_summary, summarise, write_summary
from teacher_store.records import TeacherRecord
from teacher_store.store import TeacherStore
from upcycle.config_io import dump_config
from upcycle.errors import UserError
from upcycle.files import write_atomically
from upcycle.run_folder import RunFolder

__all__ = ["plain_words", "read_summary", "summarise", "write_report", "write_summary"]


def write_report(folder: RunFolder, *, control: Path | None = None, store: TeacherStore | None = None) -> Path:
    """Writes the report of a run, atomically, and returns its path.

    Args:
      folder: the run; its `summary.json`, or what is known so far.
      control: run folder or summary of a run from scratch, drawn over the same environment frames.
      store: where the teacher's provenance is looked up; the user's store if not given.
    Raises: UserError if `control` is none, or the disk is full.
    """
    summary = read_summary(folder.path)
    other = None if control is None else read_summary(control)
    if other is not None and other["env_id"] != summary["env_id"]:
        raise UserError("--control", str(control), f"played {other['env_id']}", f"name a run on {summary['env_id']}")
    page = render(
        summary,
        control=other,
        teacher=_find_teacher(summary, store or TeacherStore.default()),
        config=dump_config(folder.config),
        name=folder.config.name,
    )
    write_atomically(folder.report, page.encode())
    return folder.report


def render(summary: Summary, *, control: Summary | None, teacher: TeacherRecord | None, config: str, name: str) -> str:
    """The page, as HTML without any reference to another file or host."""
    words = plain_words(summary) + ([_control_words(summary, control)] if control is not None else [])
    sections = [
        _tiles(summary),
        f"<figure>{to_svg(learning_curve(summary, control))}<figcaption>{_caption(summary)}</figcaption></figure>",
        _section("Phases", _phases_table(summary)),
        _section("Teacher", _teacher_table(summary, teacher)) if summary.get("teacher") else "",
        _folded("Evaluations", _scores_table(summary["scores"])),
        _folded("Configuration", f"<pre>{html.escape(config)}</pre>"),
        _folded("Versions", table(("package", "version"), sorted(summary.get("versions", {}).items()))),
    ]
    return html_page(
        "Upcycle run report", name, str(summary["env_id"]), str(summary["run_id"]), words, "".join(sections)
    )


def html_page(kicker: str, title: str, subtitle: str, identity: str, words: Iterable[str], content: str) -> str:
    """A page in the reports' style; all but `content`, which is HTML, is plain text."""
    style = files("orchestrator").joinpath("report.css").read_text(encoding="utf-8")
    title, subtitle = html.escape(title), html.escape(subtitle)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: {subtitle}</title><style>{style}</style></head><body><main>"
        f"<header><p class=kicker>{html.escape(kicker)}</p><h1>{title} "
        f"<small>{subtitle}</small></h1><p class=id>{html.escape(identity)}</p></header>"
        f"<div class=words>{''.join(f'<p>{html.escape(word)}</p>' for word in words)}</div>"
        f"{content}</main></body></html>\n"
    )


def _find_teacher(summary: Summary, store: TeacherStore) -> TeacherRecord | None:
    """The teacher's record, or None if this machine's store does not hold it (any more)."""
    if not summary.get("teacher"):
        return None
    try:
        return store.get(str(summary["teacher"]["id"]))
    except UserError:
        return None


def _control_words(summary: Summary, control: Summary) -> str:
    scores = [score for score in control["scores"] if score["env_frames"] <= summary["env_frames"]]
    if not scores:
        return "The run from scratch has no evaluation within as many environment frames."
    last = scores[-1]
    return (
        f"The same agent from scratch ({control['run_id']}) stands at {last['mean_return']:.1f} "
        f"after {last['env_frames']:,} environment frames."
    )


def _caption(summary: Summary) -> str:
    strip = "Left: the offline phase, which plays no frames. " if any(
        score["phase"] == "offline" for score in summary["scores"]
    ) else ""  # fmt: skip
    return f"{strip}Each point is one evaluation of pinned weights, its band the 95 % bootstrap interval of the mean."


def _tiles(summary: Summary) -> str:
    final = summary["final"]
    values = [
        ("final return", f"{final['mean_return']:.1f}" if final else "none yet"),
        ("of the teacher", f"{final['normalised']:.2f}" if final and final["normalised"] is not None else None),
        ("environment frames", f"{summary['env_frames']:,}"),
        ("learner steps", f"{summary['learner_steps']:,}"),
        ("samples per insert", _number(summary.get("samples_per_insert"), 2)),
        ("running time", format_seconds(summary.get("wall_seconds"))),
    ]
    tiles = (f"<div><b>{value}</b><span>{label}</span></div>" for label, value in values if value)
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _phases_table(summary: Summary) -> str:
    phases = summary.get("phases", [])
    if not phases:
        return "<p>No phase has ended yet.</p>"
    rows: list[tuple[str, ...]] = []
    for phase in phases:
        seconds, steps = float(phase["seconds"]), int(phase["learner_steps"])
        best = [score["mean_return"] for score in summary["scores"] if score["phase"] == phase["phase"]]
        rows.append(
            (
                phase["phase"],
                format_seconds(seconds),
                f"{phase['env_frames']:,}",
                f"{steps:,}",
                f"{steps / seconds:,.1f}" if seconds else "",
                f"{phase['wait_seconds'] / seconds:.1%}" if seconds and "wait_seconds" in phase else "",
                f"{phase['teacher_states']:,}" if "teacher_states" in phase else "",
                f"{best[-1]:.1f}" if best else "",
            )
        )
    head = (
        "phase",
        "time",
        "env. frames",
        "learner steps",
        "steps / s",
        "learner waited",
        "teacher saw states",
        "last return",
    )
    return table(head, rows)


def _teacher_table(summary: Summary, record: TeacherRecord | None) -> str:
    teacher = summary["teacher"]
    rows: list[tuple[str, str]] = [("id", str(teacher["id"])), ("score in this run", f"{teacher['score']:.2f}")]
    known = summary.get("teachers", [])  # summaries of old name the best one alone
    others = [
        f"{other['id']} ({'a buffer alone' if other['score'] is None else format(other['score'], '.2f')})"
        for other in known
        if other["id"] != teacher["id"]
    ]
    rows += [("other teachers", ", ".join(others))] if others else []
    if record is None:
        return table((), [*rows, ("provenance", "its record is not in this machine's store")])
    made = record.provenance
    if record.score:
        low, high = record.score.interval_low, record.score.interval_high
        interval = f"{record.score.mean_return:.2f} ({low:.2f} to {high:.2f}, {record.score.episodes} episodes)"
        rows.append(("score on record", interval))
    rows += [
        ("policy", record.describe_policy()),
        ("observation", f"{record.frame_stack} frames of {' x '.join(map(str, record.frame_shape))}"),
        ("trained by run", made.run_id or "unknown"),
        ("learner steps", f"{made.learner_steps:,}" if made.learner_steps is not None else "unknown"),
        ("environment frames", f"{made.env_frames:,}" if made.env_frames is not None else "unknown"),
        ("its teachers", ", ".join(record.parents) or "none: trained from scratch"),
        ("weights, SHA-256", record.weights.sha256 if record.weights else "none"),
        ("licence", record.licence),
    ]
    return table((), rows)


def _scores_table(scores: Iterable[Summary]) -> str:
    rows = [
        (
            score["phase"],
            f"{score['learner_steps']:,}",
            f"{score['env_frames']:,}",
            str(score["policy_version"]),
            f"{score['mean_return']:.2f}",
            f"{score['interval'][0]:.2f} to {score['interval'][1]:.2f}",
            _number(score["normalised"], 3) or "",
            str(score["episodes"]),
        )
        for score in scores
    ]
    head = (
        "phase",
        "learner steps",
        "env. frames",
        "version",
        "mean return",
        "95 % interval",
        "normalised",
        "episodes",
    )
    return table(head, rows)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table; without a head its rows are pairs of a name and a value. All cells are plain text."""
    header = f"<thead><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    kind = "" if head else " class=pairs"
    body = ("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table{kind}>{header}<tbody>{''.join(body)}</tbody></table></div>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"
