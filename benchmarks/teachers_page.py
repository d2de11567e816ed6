"""The figures of `benchmarks.teachers`, for people."""

import os
import platform
from typing import Any, Final

from benchmarks.replay_log import SIZE

_WHY_SEEDING: Final = """\
Shards of the tier raw, the default, come nearest to a third bound: their frames are written into memory that the
kernel gives page by page, which costs more than decompressing them. What is left is the check of every chunk, and its
entries in the table. Those of the tier warm compress frames anew, as LZ4 blocks."""

_WHY_IMPORT: Final = """\
What an import does beside compressing: it decompresses the source, partly twice (its oldest row lies in the middle of a
gzip stream), and makes chunks of rows. Both take about as much processor time as compressing does, and all share
the cores."""


def page(values: dict[str, Any], command: str) -> str:
    """The figures for people, in Markdown."""
    lines = [
        "# A teacher's buffer, imported at full scale",
        "",
        f"`{command}`, {os.cpu_count()} cores ({platform.machine()}), {values['other_cores']:.1f} of them busy with "
        "something else meanwhile: what counts are ratios within one run. Replay logs in Dopamine's format, full and "
        f"rotated, of real EnvPool frames of {SIZE}x{SIZE} (sticky random play under Dopamine's protocol, "
        f"{values['played']:,} different transitions of each game).",
        "",
        "| | goal | " + " | ".join(values["games"]) + " |",
        "|---|---|" + "---|" * len(values["games"]),
    ]
    rows: dict[str, tuple[str, str]] = {
        "transitions": ("transitions", ""),
        "import_transitions_per_s": ("imported a second, from its first row to the end of the command", ""),
        "codec_limit_transitions_per_s": ("compressed a second, all cores, nothing else", ""),
        "import_of_codec_limit": ("import, of that", "at least 0.5"),
        "command_transitions_per_s": ("the whole command, start of Python and its libraries included", ""),
        "zstd_limit_transitions_per_s": ("zstd's part of it alone", ""),
        "import_cpu_us_per_transition": ("CPU time of the import, us a transition", ""),
        "codec_cpu_us_per_transition": ("CPU time of compressing, us a transition", ""),
        "zstd_cpu_us_per_transition": ("zstd's part of it, us a transition", ""),
        "import_peak_rss_mb": ("peak resident memory, MB", "at most 1,074"),
        "bytes_per_transition": ("bytes per transition in the log", "at most 1,500"),
        "source_bytes": ("bytes of the source", ""),
        "resumed_after_kill_alike": ("killed half way (small), resumed, the same chunks", "yes"),
    }
    for name, (title, goal) in rows.items():
        lines.append(
            f"| {title} | {goal} | " + " | ".join(_shown(game[name]) for game in values["games"].values()) + " |"
        )
    lines += [
        "",
        _WHY_IMPORT,
        "",
        f"Seeding {values['seeded']:,} transitions, transitions a second, beside what reading the log from disk (out "
        "of the kernel's cache), decompressing it, and writing its frames into new memory allow in as many processes:",
        "",
        "| game | tier | shards | seeded | disk | decompression | memory | of the lowest | CPU us each "
        "| decompression's | memory's |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for game, found in values["games"].items():
        lines += [_seeding_row(game, row) for row in found["seeding"]]
    lines += ["", _WHY_SEEDING]
    return "\n".join(lines) + "\n"


def _shown(value: float | bool | str) -> str:
    if isinstance(value, str):
        return value
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}"


def _seeding_row(game: str, row: dict[str, Any]) -> str:
    limits = [row[f"{name}_limit_transitions_per_s"] for name in ("disk", "decompression", "memory")]
    share = row["transitions_per_s"] / min(limit for limit in limits if limit is not None)
    parts = [game, row["tier"], row["shards"], row["transitions_per_s"], *limits, f"{share:.0%}"]
    parts += [row[f"{name}cpu_us_per_transition"] for name in ("", "decompression_", "memory_")]
    return "| " + " | ".join("" if part is None else _shown(part) for part in parts) + " |"
