"""`report.html`: what a run came to, in one file that needs nothing else."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.reports.page import Tile, figure, folded, html_page, section, table, tiles
from orchestrator.reports.picture import to_svg
from orchestrator.reports.run_figure import learning_curve
from orchestrator.reports.selected_version import end_of
from orchestrator.reports.summary import Summary, format_seconds, plain_words, read_summary, summarise, write_summary
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.config.io import dump_config
from upcycle.errors import UserError
from upcycle.files import write_atomically
from upcycle.runs.run_folder import RunFolder

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
        _version_tiles(summary) if summary["final"] is not None else "",
        _run_tiles(summary),
        _curve(summary, control, words),
        folded("The figure's values", _values(summary, control)),
        section("Phases", _phases_table(summary)),
        section("Teacher", _teacher_table(summary, teacher)) if summary.get("teacher") else "",
        folded("Configuration", f"<pre tabindex=0>{html.escape(config)}</pre>"),
        folded(
            "Versions", table(("package", "version"), sorted(summary.get("versions", {}).items()), label="Versions")
        ),
    ]
    return html_page(
        "Upcycle run report", name, str(summary["env_id"]), str(summary["run_id"]), words, "".join(sections)
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
    """The run from scratch within the frames of the version given back, and within those of the run."""
    final, limits = summary["final"], {int(summary["env_frames"]): "the whole run"}
    if final is not None and final["env_frames"] is not None:
        limits = {int(final["env_frames"]): "the version given back"} | limits
    found = list[str]()
    for limit, whose in limits.items():
        scores = [score for score in control["scores"] if score["env_frames"] <= limit]
        if scores:
            after = f"after {scores[-1]['env_frames']:,}"
            found.append(f"stands at {scores[-1]['mean_return']:.1f} with no more frames than {whose} ({after})")
        else:
            found.append(f"has no evaluation within the frames of {whose}")
    return f"The same agent from scratch ({control['run_id']}) {', and '.join(found)}."


def _curve(summary: Summary, control: Summary | None, words: Iterable[str]) -> str:
    title = f"Learning curve on {summary['env_id']}"
    description = " ".join([*words, "Every value is in the table below the figure."])
    wide, narrow = (
        to_svg(learning_curve(summary, control, narrow=narrow), name, title, description)
        for narrow, name in ((False, "curve"), (True, "narrow-curve"))
    )
    return figure(wide, narrow, _caption(summary))


def _caption(summary: Summary) -> str:
    final, caption = summary["final"], ""
    if any(score["phase"] == "offline" for score in summary["scores"]) or (final and final["phase"] == "offline"):
        caption = "The offline phase, which plays no frames, has a strip of its own. "
    caption += "Each point is one evaluation of pinned weights, its band the 95 % bootstrap interval of the mean."
    if final and final["kind"] == "final" and final["learner_steps"] is not None:
        caption += (
            " The diamond is the version given back, where it stood and with its final score, over games of its own."
        )
    if end_of(summary) is not None:
        caption += " The ring is the run's last evaluation."
    return caption


def _version_tiles(summary: Summary) -> str:
    final = summary["final"]
    updates = final["learner_steps"]
    offline = final["offline_learner_steps"]
    buffer = "all on the teacher's buffer" if offline == updates else f"{offline or 0:,} on the teacher's buffer"
    rows: list[Tile] = [
        ("final return", f"{final['mean_return']:.1f}", f"{_span(final['interval'], 1)}, {final['episodes']} games"),
        ("of its teacher", _number(final["normalised"], 2), _span(final["normalised_interval"], 2)),
        ("policy version", str(final["policy_version"]), f"{final['phase']} phase" if final["phase"] else ""),
        ("own frames", _count(final["env_frames"]), "environment frames"),
        ("updates", _count(updates), buffer if offline else ""),
    ]
    return tiles("The version given back" if final["kind"] == "final" else "The version evaluated last", rows)


def _run_tiles(summary: Summary) -> str:
    last = end_of(summary)
    rows: list[Tile] = [
        ("environment frames", _count(summary["env_frames"]), ""),
        ("updates", _count(summary.get("learner_steps")), ""),
        ("running time", format_seconds(summary.get("wall_seconds")), ""),
        ("samples per insert", _number(summary.get("samples_per_insert"), 2), ""),
    ]
    if last is not None:
        note = f"version {last['policy_version']}, {last['episodes']} games"
        rows.insert(2, ("last evaluation", f"{last['mean_return']:.1f}", note))
    return tiles("The whole run", rows)


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
        "updates",
        "updates / s",
        "learner waited",
        "teacher saw states",
        "last return",
    )
    return table(head, rows, label="Phases")


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
        return table((), [*rows, ("provenance", "its record is not in this machine's store")], label="Teacher")
    made = record.provenance
    if record.score:
        low, high = record.score.interval_low, record.score.interval_high
        interval = f"{record.score.mean_return:.2f} ({low:.2f} to {high:.2f}, {record.score.episodes} episodes)"
        rows.append(("score on record", interval))
    rows += [
        ("policy", record.describe_policy()),
        ("observation", f"{record.frame_stack} frames of {' x '.join(map(str, record.frame_shape))}"),
        ("trained by run", made.run_id or "unknown"),
        ("its updates", _count(made.learner_steps)),
        ("its environment frames", _count(made.env_frames)),
        ("its buffer", f"{record.experience.transitions:,} transitions" if record.experience else "none"),
        ("its teachers", ", ".join(record.parents) or "none: trained from scratch"),
        ("weights, SHA-256", record.weights.sha256 if record.weights else "none"),
        ("licence", record.licence),
    ]
    return table((), rows, label="Teacher")


def _values(summary: Summary, control: Summary | None) -> str:
    """All that the figure shows, and the score of the version given back first."""
    final = summary["final"]
    rows = [_row(score["phase"], score) for score in summary["scores"]]
    if final is not None and final["kind"] == "final" and final["learner_steps"] is not None:
        rows.insert(0, _row("given back", final))
    content = table(_VALUES, rows, label="Evaluations")
    if control is not None:
        rows = [_row(score["phase"], score) for score in control["scores"]]
        title = f"The same agent from scratch, {control['run_id']}"
        content += f"<p>{html.escape(title)}</p>{table(_VALUES, rows, label=title)}"
    return content


_VALUES: Final = ("phase", "updates", "env. frames", "version", "mean return", "95 % interval", "normalised", "games")


def _row(name: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{score['learner_steps']:,}",
        f"{score['env_frames']:,}",
        str(score["policy_version"]),
        f"{score['mean_return']:.2f}",
        _span(score["interval"], 2),
        _number(score["normalised"], 3) or "",
        str(score["episodes"]),
    )


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _span(interval: Sequence[float] | None, digits: int) -> str:
    return "" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
