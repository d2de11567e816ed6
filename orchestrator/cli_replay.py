"""The verbs `upcycle replay ...`; see `orchestrator.cli`."""

from pathlib import Path

from tyro.conf import Positional
from tyro.extras import SubcommandApp

from orchestrator.cli_options import RUNS, check_positive, open_run

replay_app = SubcommandApp()


@replay_app.command
def inspect(
    run: Positional[str],
    *,
    table: str | None = None,
    sheet: Path | None = None,
    windows: int = 8,
    runs: Path = RUNS,
    json: bool = False,
) -> int:
    """Show what the replay shards of a running run hold, and which priorities, ages and policy versions.

    Args:
        run: name of the run
        table: one table alone; by default all of them
        sheet: write a picture of sampled windows there, as PNG
        windows: windows of each table and shard in that picture, at most 64
        runs: folder of the runs
        json: print one JSON value
    """
    check_positive("--windows", windows)
    folder = open_run(runs, run)
    from orchestrator import replay_inspect

    return replay_inspect.show(folder, table=table, sheet=sheet, num_windows=windows, as_json=json)
