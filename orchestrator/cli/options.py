"""Options that several verbs share, and what is checked about them before anything heavy is imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import UseAppendAction, arg

from orchestrator.api.presets import RUNS, find_preset
from upcycle.errors import UserError

__all__ = ["RUNS", "STOPPED", "Overrides", "References", "check_positive", "check_report", "find_preset", "open_run"]

STOPPED: Final = 3
"""Exit code of a run that was stopped before its end, and can be resumed."""

Overrides = Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="FIELD=VALUE")]
"""`--set section.field=value`, any number of times."""

References = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="RUN|RETURN")]
"""`--reference NAME` or `--reference 8.6`, any number of times."""


def open_run(runs: Path, run: str) -> Path:
    """Folder of an existing run. Raises: UserError."""
    from upcycle.runs.run_folder import RunFolder

    return RunFolder.open(runs / run).path


def check_positive(option: str, value: int) -> None:
    """Raises UserError unless `value` is above 0."""
    if value <= 0:
        raise UserError(option, value, "is not above 0", "give a positive number")


def check_report(run: Sequence[str], *, control: Path | None, references: Sequence[str]) -> None:
    """Raises UserError for options of `upcycle report` that say nothing about so many runs."""
    if not run:
        raise UserError("run", "", "none is named", "name one run, or several for the report of a workflow")
    if len(run) == 1 and references:
        raise UserError("--reference", references[0], "is for several runs", "name more runs, or use --control")
    if len(run) > 1 and control is not None:
        raise UserError("--control", str(control), "is for one run", "name the control among the runs")
