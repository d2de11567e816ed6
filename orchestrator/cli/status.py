"""`upcycle status` and `upcycle stop`: read from the run folder, so they work without Ray, Redis or the driver."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cli.printing import print_json, print_table
from orchestrator.run.shard_totals import in_words
from orchestrator.run.standstill import WORDS, clock_time
from orchestrator.run.state import describe
from orchestrator.run.stopping import stop_run
from upcycle.errors import UpcycleError
from upcycle.runs.run_folder import Record, RunFolder
from upcycle.runs.runtime import Games
from upcycle.runs.waits import Wait


def describe_any(path: Path) -> Record:
    """As `describe`; of a run that cannot be read its name, the state "unreadable" and `error`, which says why."""
    try:
        return describe(RunFolder.open(path))
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})"
    except UpcycleError as error:
        reason = str(error)
    except (KeyError, TypeError, ValueError) as error:  # its files are JSON, but not what a driver has written
        reason = f"its files are damaged ({type(error).__name__}: {error})"
    return {"name": path.name, "state": "unreadable", "error": reason}


def show(path: Path, *, as_json: bool) -> int:
    """Prints one run."""
    record = describe(RunFolder.open(path))
    if as_json:
        print_json(record)
        return 0
    score = record["score"]
    print(f"{record['name']}  {record['env_id']}  {record['state']}  {_progress(record)}".rstrip())
    print(f"{record['env_frames']:,} frames, {record['learner_steps']:,} updates, {record['restarts']} restarts")
    print(_newest(score))
    if record["replay"]:
        print(f"replay: {in_words(record['replay'])}")
    for name in ("reason", "warning"):
        if record[name]:
            print(f"{name}: {record[name]}")
    if record["standstill"]:
        print(f"waiting: {record['standstill']['line']}")
    elif record["waiting_for"]:
        print(f"waiting for {record['waiting_for']}")
    for why, names in _plain_kernels(record["processes"]).items():
        print(f"plain kernels, replay is several times slower: {', '.join(names)}: {why}")
    if record["processes"]:
        rows = [
            (name, str(status.get("pid") or ""), str(status["state"]), _detail(status))
            for name, status in record["processes"].items()
        ]
        print_table(("process", "pid", "state", ""), rows)
    return 0


def _plain_kernels(processes: dict[str, Record]) -> dict[str, list[str]]:
    """Processes that run without the native kernels, by the reason."""
    reasons = dict[str, list[str]]()
    for name, status in processes.items():
        if why := status.get("plain_kernels"):
            reasons.setdefault(why, []).append(name)
    return reasons


def show_all(runs: Path, *, as_json: bool) -> int:
    """Prints all runs in a folder, the newest first. A run that cannot be read is one row that says so."""
    paths = sorted(_run_folders(runs), key=_age)
    records = [describe_any(path) for path in paths]
    if as_json:
        print_json(records)
        return 0
    if not records:
        print(f"no runs in {runs}; start one with: upcycle run pong_cpu")
        return 0
    print_table(("run", "task", "state", "phase", "frames", "updates", "score"), map(_row, records))
    return 0


def _run_folders(runs: Path) -> Iterator[Path]:
    """Folders of runs, and those that may be some but cannot be looked into."""
    for path in runs.iterdir() if runs.is_dir() else ():
        if path.name.startswith("."):
            continue
        try:
            (path / "manifest.json").stat()
        except PermissionError:
            yield path
        except OSError:
            continue
        else:
            yield path


def _age(path: Path) -> tuple[float, str]:
    """Sorts folders, the newest run first."""
    try:
        return -float(RunFolder(path).manifest["created"]), path.name
    except (OSError, UpcycleError, KeyError, TypeError, ValueError):
        return 0.0, path.name


def _row(record: Record) -> tuple[str, ...]:
    if record["state"] == "unreadable":
        return (record["name"], "", f"unreadable: {record['error']}", "", "", "", "")
    counts = (f"{record['env_frames']:,}", f"{record['learner_steps']:,}")
    return (record["name"], record["env_id"], record["state"], _progress(record), *counts, _score(record["score"]))


def stop(path: Path, *, timeout_seconds: float, as_json: bool) -> int:
    """Ends a run and waits until it has ended.

    A driver on this machine gets SIGTERM; one elsewhere sees the request in the run folder.

    Raises: UserError if the run is not running, or has not ended in time.
    """
    state = stop_run(RunFolder.open(path), timeout_seconds=timeout_seconds)
    if as_json:
        print_json({"name": path.name, "state": state})
    else:
        print(f"{path.name}: {state}")
    return 0


def _progress(record: Record) -> str:
    if record["phase"] is None or record["fraction"] is None:
        return str(record["phase"] or "")
    playing = "" if record["games"] is None else f", {_games(record['games'])}"
    waiting = ", waiting" if record["standstill"] or record["waiting_for"] else ""
    return f"{record['phase']} {record['fraction']:.0%}{playing}{waiting}"


def _games(values: Record) -> str:
    games = Games(**values)
    return f"{games.count}, mean so far {games.mean}"


def _newest(score: Record | None) -> str:
    """The newest score with its version, which the run may have left behind long ago."""
    if score is None:
        return "newest score: none yet"
    name = {"final": "final score", "playoff": "play-off"}.get(str(score["kind"]), "newest score")
    own = (
        f"policy version {score['policy_version']}, {score['env_frames']:,} frames, {score['learner_steps']:,} updates"
    )
    return f"{name}: {_score(score)} in {score['episodes']} games ({own})"


def _score(score: Record | None) -> str:
    if score is None:
        return "none yet"
    against = "" if score["normalised"] is None else f" ({score['normalised']:.2f} of its teacher)"
    return f"{score['mean_return']:.1f}{against}"


def _detail(status: dict[str, Any]) -> str:
    hidden = {"pid", "time", "state", "error", "score", "plain_kernels", "waiting"}
    wait = Wait.from_json(status.get("waiting"))
    waiting = [] if wait is None else [f"{WORDS[wait.kind][0]} since {clock_time(wait.since)}"]
    error = [str(status["error"])] if status["state"] in ("died", "failed") and status.get("error") else []
    return ", ".join(
        error
        + waiting
        + [
            f"{key} {_games(value) if key == 'games' else _short(value)}"
            for key, value in status.items()
            if key not in hidden and value not in (None, "")
        ]
    )


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4g}"
    return f"{value:,.0f}" if isinstance(value, float | int) else str(value)
