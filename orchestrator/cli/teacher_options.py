"""The verbs `upcycle teacher ...`; see `orchestrator.cli.app`."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional
from tyro.extras import SubcommandApp

from orchestrator.cli.options import RUNS, Overrides, check_positive, open_run
from upcycle.errors import UserError

teacher_app = SubcommandApp()


@teacher_app.command(name="list")
def list_teachers(*, json: bool = False) -> int:
    """List the teachers in the store.

    Args:
        json: print one JSON value
    """
    from orchestrator.cli import teacher_commands

    teacher_commands.list_teachers(as_json=json)
    return 0


@teacher_app.command(name="show")
def show_teacher(name: Positional[str], *, verify: bool = False, json: bool = False) -> int:
    """Show what is known about one teacher.

    Args:
        name: name or id
        verify: read all of its files and compare them with their SHA-256
        json: print one JSON value
    """
    from orchestrator.cli import teacher_commands

    teacher_commands.show_teacher(name, as_json=json, verify=verify)
    return 0


@teacher_app.command(name="import")
def import_teacher(
    path: Positional[Path],
    *,
    name: str | None = None,
    format: str = "auto",
    task: str | None = None,
    checkpoint: int | None = None,
    replay: Path | None = None,
    into: str | None = None,
    set_: Overrides = (),
    reference: Path | None = None,
    licence: str = "NOASSERTION",
    accept_lossy: bool = False,
    n_step: int = 5,
    episodes: int = 30,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Make a teacher of what another framework has written: weights, a replay buffer or dataset, or both.

    Args:
        path: file or folder, or a bundle of another store; what is in it is recognised by its content
        name: what to call the teacher; by default as the path; a bundle keeps its own
        format: name of the format, where its content leaves a choice
        task: EnvPool task it was trained on, for example Pong-v5; not needed with --into, or where the files say it
        checkpoint: which of several; by default the newest
        replay: where the replay buffer is, if it is not in the same folder
        into: give the buffer to this teacher of the store, in place of its own
        set_: change one field of the protocol, for example --set env.sticky_actions=0; may be given several times
        reference: .npz file of observations and q_values by the original framework, to compare with
        licence: of what is imported, an SPDX identifier
        accept_lossy: take frames that were compressed with loss (JPEG)
        n_step: longest horizon of a target that the buffer shall serve
        episodes: whole games to play for the score; 0 plays none
        seed: of these games
        json: print one JSON value
    """
    check_positive("--n-step", n_step)
    from orchestrator.cli import teacher_commands
    from orchestrator.teachers.importing import ImportOptions, Request
    from upcycle.runs.runtime import keep_heap

    keep_heap()
    options = ImportOptions(
        path=path,
        name=name or "".join(c if c.isalnum() or c in "._-" else "-" for c in path.resolve().stem)[:48].lstrip("._-"),
        format=format,
        task=task,
        request=Request(checkpoint=checkpoint, accept_lossy=accept_lossy),
        replay=replay,
        overrides=set_,
        reference=reference,
        licence=licence,
        n_step=n_step,
        episodes=episodes,
        seed=seed,
    )
    teacher_commands.import_teacher(options, into=into, as_json=json)
    return 0


@teacher_app.command
def register(
    entry_point: Positional[str],
    *,
    task: str,
    name: str | None = None,
    kind: Literal["q_values", "probabilities"] | None = None,
    cacheable: bool = False,
    no_cacheable: bool = False,
    set_: Overrides = (),
    licence: str = "NOASSERTION",
    episodes: int = 30,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Make a teacher of a Python function that an installed package offers in the entry point group upcycle.teachers.

    Args:
        entry_point: name of the entry point
        task: EnvPool task that it plays, for example Pong-v5
        name: what to call the teacher; by default as the entry point
        kind: what it returns, if it does not say so itself
        cacheable: equal observations always get equal values; by default it is as it says itself, or else not so
        no_cacheable: they may get others
        set_: change one field of the protocol, for example --set env.sticky_actions=0.25; may be given several times
        licence: of the policy, an SPDX identifier
        episodes: whole games to play for the score; 0 plays none
        seed: of these games
        json: print one JSON value
    """
    if cacheable and no_cacheable:
        raise UserError("--cacheable", True, "--no-cacheable contradicts it", "give one of them")
    from orchestrator.cli import teacher_commands
    from orchestrator.teachers.register_function import RegisterOptions

    options = RegisterOptions(
        entry_point=entry_point,
        task=task,
        name=name or entry_point,
        kind=kind,
        cacheable=cacheable or (False if no_cacheable else None),
        overrides=set_,
        licence=licence,
        episodes=episodes,
        seed=seed,
    )
    teacher_commands.register(options, as_json=json)
    return 0


@teacher_app.command
def collect(
    name: Positional[str],
    *,
    frames: int = 400_000,
    epsilons: tuple[float, ...] = (0.01, 0.05, 0.2),
    lanes: int = 8,
    n_step: int = 3,
    seed: int = 0,
    replace: bool = False,
    json: bool = False,
) -> int:
    """Let a teacher play, and keep what it plays as the buffer of its students.

    Args:
        name: name or id
        frames: environment frames to play
        epsilons: exploration, dealt out over the lanes in turn
        lanes: environments side by side
        n_step: longest horizon of a target that the buffer shall serve
        seed: of environments and exploration
        replace: put this buffer in the place of a larger one that the teacher has
        json: print one JSON value
    """
    for option, value in (("--frames", frames), ("--lanes", lanes), ("--n-step", n_step)):
        check_positive(option, value)
    from orchestrator.cli import teacher_commands

    teacher_commands.collect(
        name, frames=frames, epsilons=epsilons, lanes=lanes, n_step=n_step, seed=seed, replace=replace, as_json=json
    )
    return 0


@teacher_app.command
def publish(
    run: Positional[str],
    *,
    name: str | None = None,
    policy_version: int | None = None,
    no_experience: bool = False,
    no_training_state: bool = False,
    licence: str = "Apache-2.0",
    runs: Path = RUNS,
    json: bool = False,
) -> int:
    """Make the policy of a run a teacher, with its score, its experience and its descent.

    Args:
        run: name of the run
        name: what to call the teacher; by default as the run
        policy_version: one of the versions that the run keeps; by default the best one so far, as its evaluations say
        no_experience: leave out the run's experience log, which is shared otherwise
        no_training_state: leave out networks and optimizer of the newest checkpoint, which fine-tuning can go on with
        licence: of the weights, an SPDX identifier
        runs: folder of the runs
        json: print one JSON value
    """
    folder = open_run(runs, run)
    from orchestrator.cli import teacher_commands

    teacher_commands.publish(
        folder,
        name=name or run,
        policy_version=policy_version,
        with_experience=not no_experience,
        with_training_state=not no_training_state,
        licence=licence,
        as_json=json,
    )
    return 0


@teacher_app.command(name="evaluate")
def evaluate_teacher(
    name: Positional[str],
    *,
    episodes: int = 30,
    epsilon: float = 0.001,
    seed: int = 0,
    replace: bool = False,
    json: bool = False,
) -> int:
    """Play whole games with a teacher and write the score into its record, unless the one there is of more games.

    Args:
        name: name or id
        episodes: whole games to play
        epsilon: exploration while playing
        seed: of environments and exploration
        replace: keep this score even if the one in the record is of more games
        json: print one JSON value
    """
    check_positive("--episodes", episodes)
    from orchestrator.cli import teacher_commands

    teacher_commands.evaluate(name, episodes=episodes, epsilon=epsilon, seed=seed, replace=replace, as_json=json)
    return 0


@teacher_app.command(name="export")
def export_teacher(name: Positional[str], *, output: Path, json: bool = False) -> int:
    """Write one teacher into one file: weights, protocol, log, scores, licence, ancestors' records, checksums.

    Args:
        name: name or id
        output: the file, for example NAME.zip; another machine takes it with `upcycle teacher import NAME.zip`
        json: print one JSON value
    """
    from orchestrator.cli import store_commands

    store_commands.export(name, output, as_json=json)
    return 0


@teacher_app.command(name="remove")
def remove_teacher(name: Positional[str], *, json: bool = False) -> int:
    """Take a teacher out of the store; its record stays as long as another descends from it.

    Args:
        name: name or id
        json: print one JSON value
    """
    from orchestrator.cli import store_commands

    store_commands.remove(name, as_json=json)
    return 0


@teacher_app.command(name="gc")
def collect_garbage(*, older_than: float = 24.0, dry_run: bool = False, json: bool = False) -> int:
    """Free what no teacher and no lineage needs, and what killed processes have left.

    Args:
        older_than: hours; what is younger, or was removed or replaced less long ago, stays
        dry_run: say what would go, and leave it
        json: print one JSON value
    """
    if not older_than >= 0:
        raise UserError("--older-than", older_than, "is no number of hours", "give 0 or more")
    from orchestrator.cli import store_commands

    store_commands.collect_garbage(hours=older_than, dry_run=dry_run, as_json=json)
    return 0
