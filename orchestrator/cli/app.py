"""The command line. It parses first and imports after: a typing error costs no second, and no torch.

Exit codes: 0 done, 1 failed (a defect, or processes that kept dying), 2 something that the user can put right: one line
that names the field, its value and the remedy, 3 a run that was stopped before its end, 130 interrupted. None of them
depends on whether somebody reads what is printed.
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tyro.conf import FlagCreatePairsOff, Positional
from tyro.extras import SubcommandApp

from orchestrator.cli.options import (
    RUNS,
    Overrides,
    References,
    check_positive,
    check_report,
    find_preset,
    open_run,
)
from orchestrator.cli.replay import replay_app
from orchestrator.cli.teacher_options import teacher_app
from upcycle.errors import CorruptDataError, UpcycleError, UserError
from upcycle.files import explain_os_error
from upcycle.streams import leavable_streams
from upcycle.url_secrets import masked

_TRACEBACK: Final = "UPCYCLE_TRACEBACK"

app = SubcommandApp()


@app.command
def run(
    preset: Positional[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
    set_: Overrides = (),
    runs: Path = RUNS,
    json: bool = False,
    timings: bool = False,
) -> int:
    """Start a run and see it through: offline, online, rl, evaluation, report.

    Args:
        preset: a TOML file, or the name of a preset that ships with Upcycle
        name: name of the run; by default the preset's
        overwrite: remove an earlier run of that name, if it is not running
        set_: change one field, for example --set learner.batch_size=64; may be given several times
        runs: folder of the runs; UPCYCLE_RUNS sets another default
        json: print one JSON value at the end instead of progress
        timings: print how long start and end took, step by step
    """
    from upcycle.config.io import load_config

    found = find_preset(preset)
    config = load_config(found, [*set_, *([f"name={name}"] if name is not None else [])])
    from orchestrator.cli.early_start import local_place

    path = runs / config.name
    with local_place(config) as place:
        from orchestrator.cli import results
        from orchestrator.run import launch, progress
        from orchestrator.run.timings import Timings

        view, known = progress.make_view(config.name, json=json), Timings()
        summary = launch.run(
            config, preset=found.stem, path=path, overwrite=overwrite, view=view, place=place, timings=known
        )
        return results.show_summary(summary, path, as_json=json, timings=known if timings else None)


@app.command
def resume(
    run: Positional[str], *, set_: Overrides = (), runs: Path = RUNS, json: bool = False, timings: bool = False
) -> int:
    """Go on with a run from its newest checkpoint; replay is filled from the run's own experience log.

    Args:
        run: name of the run
        set_: change one field, for example --set rl.env_frames=8000000; may be given several times
        runs: folder of the runs
        json: print one JSON value at the end instead of progress
        timings: print how long start and end took, step by step
    """
    from upcycle.config.io import load_config

    path = open_run(runs, run)
    from orchestrator.cli.early_start import local_place

    with local_place(load_config(path / "config.toml", set_, stored=True)) as place:
        from orchestrator.cli import results
        from orchestrator.run import launch, progress
        from orchestrator.run.timings import Timings

        view, known = progress.make_view(run, json=json), Timings()
        summary = launch.resume(path, set_, view=view, place=place, timings=known)
        return results.show_summary(summary, path, as_json=json, timings=known if timings else None)


@app.command
def stop(run: Positional[str], *, timeout: float = 180.0, runs: Path = RUNS, json: bool = False) -> int:
    """End a run cleanly, with a checkpoint, wherever its driver runs.

    Args:
        run: name of the run
        timeout: seconds to wait until it has ended
        runs: folder of the runs
        json: print one JSON value
    """
    from orchestrator.cli import status

    return status.stop(open_run(runs, run), timeout_seconds=timeout, as_json=json)


@app.command(name="status")
def show_status(run: Positional[str | None] = None, *, runs: Path = RUNS, json: bool = False) -> int:
    """Show all runs, or one of them with its processes.

    Args:
        run: name of the run
        runs: folder of the runs
        json: print one JSON value
    """
    from orchestrator.cli import status

    return status.show_all(runs, as_json=json) if run is None else status.show(open_run(runs, run), as_json=json)


@app.command
def evaluate(
    who: Positional[str],
    *,
    episodes: int = 30,
    epsilon: float = 0.001,
    policy_version: int | None = None,
    replace: bool = False,
    runs: Path = RUNS,
    json: bool = False,
) -> int:
    """Play whole games with the policy that a run gives back, or with a teacher, whose record keeps the score.

    Args:
        who: name of a run, or name or id of a teacher
        episodes: whole games to play
        epsilon: exploration while playing
        policy_version: of a run, one of the versions that it keeps; by default the best so far, as its evaluations say
        replace: of a teacher, keep this score even if the one in its record is of more games
        runs: folder of the runs
        json: print one JSON value
    """
    check_positive("--episodes", episodes)
    if (runs / who / "manifest.json").is_file():
        folder = open_run(runs, who)
        from orchestrator.cli import results

        return results.evaluate_run(
            folder, policy_version=policy_version, episodes=episodes, epsilon=epsilon, as_json=json
        )
    if policy_version is not None:
        raise UserError("--policy-version", policy_version, "is for runs", f"leave it out, or name a run, not {who}")
    from orchestrator.cli import teacher_commands

    teacher_commands.evaluate(who, episodes=episodes, epsilon=epsilon, replace=replace, as_json=json)
    return 0


@app.command
def report(
    run: Positional[tuple[str, ...]],
    *,
    control: Path | None = None,
    reference: References = (),
    runs: Path = RUNS,
    json: bool = False,
) -> int:
    """Write the report of a run again, or of one that has not finished yet; of several runs, that of their workflow.

    Args:
        run: name of the run; with several, curves over all their seeds and games go to workflow.html beside the runs
        control: with one run: folder or summary of a run from scratch, to be drawn beside it
        reference: with several runs: whose final score counts 1, a run for each game or a mean raw return; by default
            the runs from scratch
        runs: folder of the runs
        json: print one JSON value
    """
    check_report(run, control=control, references=reference)
    folders = [open_run(runs, name) for name in run]
    if len(run) > 1:
        from orchestrator.reports import workflow_report

        return workflow_report.show_workflow(runs, run, reference, as_json=json)
    from orchestrator.cli import results

    return results.rewrite_report(folders[0], control=control, as_json=json)


@app.command
def lineage(name: Positional[str | None] = None, *, output: Path | None = None, json: bool = False) -> int:
    """Show which teachers were reincarnated from which.

    Args:
        name: name or id of one teacher, to see its relatives alone
        output: draw it into this .svg or .png file as well
        json: print one JSON value
    """
    from orchestrator.cli import lineage

    return lineage.show_lineage(name, output=output, as_json=json)


@app.command
def doctor(*, runs: Path = RUNS, json: bool = False) -> int:
    """Check that this machine can run Upcycle; exit code 2 if something is missing.

    Args:
        runs: folder of the runs
        json: print one JSON value
    """
    from orchestrator.cli import doctor as checks

    return checks.report(runs, as_json=json)


app.command(teacher_app, name="teacher", help="List, show, collect from, publish and evaluate teachers.")
app.command(replay_app, name="replay", help="Look into the replay of a run, and scale it.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    with leavable_streams():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    _check_packages()
    try:
        code = app.cli(
            prog="upcycle",
            description="Grow better agents from the ones you already have.",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
        sys.stdout.flush()  # here it can still be an error that what was to be printed did not find room
        return int(code)
    except (UserError, CorruptDataError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except UpcycleError as error:
        return _fail(error, 1)
    except Exception as error:  # the program's outermost frame
        explained = explain_os_error(error) if isinstance(error, OSError) else None
        if explained is not None:
            return _fail(explained, 2)
        if os.environ.get(_TRACEBACK):
            print(masked(traceback.format_exc()), file=sys.stderr)
        return _fail(f"{type(error).__name__}: {error} (a defect; {_TRACEBACK}=1 shows where)", 1)


def _fail(error: object, code: int) -> int:
    print("upcycle: " + masked(" ".join(str(error).split())), file=sys.stderr)
    return code


def _check_packages() -> None:
    """Our top-level packages have plain names: another `actors` on the path would be imported without a word."""
    root = Path(__file__).resolve().parents[2]
    for name in ("upcycle", "actors", "learner", "replay_service", "teacher_store"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
        assert found == root, f"package {name} comes from {found}, not from {root}: remove the other one from the path"
