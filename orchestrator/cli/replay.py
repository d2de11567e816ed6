"""The verbs `upcycle replay ...`; see `orchestrator.cli.app`."""

from pathlib import Path

from tyro.conf import Positional
from tyro.extras import SubcommandApp

from orchestrator.cli.options import RUNS, check_positive, open_run
from upcycle.errors import UserError

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
    from orchestrator.cli import replay_inspect

    return replay_inspect.show(folder, table=table, sheet=sheet, num_windows=windows, as_json=json)


@replay_app.command
def scale(
    run: Positional[str],
    *,
    shards: int,
    drain_seconds: float = 600.0,
    timeout: float = 60.0,
    runs: Path = RUNS,
    json: bool = False,
) -> int:
    """Give a running run more or fewer replay shards; nothing stops meanwhile, and no experience is copied.

    More: new shards fill up with new chunks. Fewer: the highest ones take no more chunks, and leave once the others are
    full. What they have logged stays in the run's experience.

    Args:
        run: name of the run
        shards: replay shards that take chunks
        drain_seconds: how long a surplus shard stays at the most, for the others to become full
        timeout: seconds to wait until new shards serve and surplus ones drain
        runs: folder of the runs
        json: print one JSON value
    """
    check_positive("--shards", shards)
    if not 0 <= drain_seconds < float("inf"):
        raise UserError("--drain-seconds", drain_seconds, "is no time to wait", "give 0 or more seconds")
    folder = open_run(runs, run)
    from orchestrator.run import scaling

    return scaling.scale(folder, num_shards=shards, drain_seconds=drain_seconds, timeout_seconds=timeout, as_json=json)
