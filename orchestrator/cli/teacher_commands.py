"""The verbs of `upcycle teacher`: they print what `orchestrator.teachers.publishing` and the store return.

Each raises UserError or CorruptDataError before it prints anything; `as_json` prints one JSON value for programs. Those
that compute import PyTorch, which takes seconds, and no other does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.envs import chunk_spec, env_spec
from orchestrator.cli.bars import show_bars
from orchestrator.cli.printing import print_json, print_table, print_values
from orchestrator.teachers import importing
from orchestrator.teachers.importing import ImportOptions
from teacher_store.records.record import Score, TeacherRecord
from teacher_store.store.revisions import Revision
from teacher_store.store.store import TeacherStore
from upcycle.errors import UserError
from upcycle.runs.runtime import Stop

if TYPE_CHECKING:
    from orchestrator.teachers.register_function import RegisterOptions


def list_teachers(*, as_json: bool) -> None:
    """Prints all teachers of the store, the bundled ones among them."""
    records = TeacherStore.default().list()
    if as_json:
        print_json([_brief(record) for record in records])
        return
    if not records:
        print("The store is empty: `upcycle teacher publish RUN --name NAME` fills it.")
        return
    print_table(("teacher", "task", "frames", "policy", "score", "random", "experience"), map(_row, records))


def _row(record: TeacherRecord) -> tuple[str, ...]:
    return (
        record.id,
        record.env.task,
        " x ".join(map(str, (record.frame_stack, *record.frame_shape))),
        record.describe_policy(),
        f"{record.score.mean_return:.1f}" if record.score else "not scored",
        "" if record.random_score is None else f"{record.random_score:.1f}",
        f"{record.experience.transitions:,} steps" if record.experience else "none",
    )


def show_teacher(name: str, *, as_json: bool, verify: bool = False) -> None:
    """Prints one teacher's record. `verify` reads all of its files first and compares them with their SHA-256."""
    store = TeacherStore.default()
    record = store.get(name)
    if verify:
        store.verify(record)
    if as_json:
        print_json(record.model_dump(mode="json") | _place(store, record) | {"verified": verify})
        return
    _print_record(record, store, note="every file verified" if verify else None)


def collect(
    name: str,
    *,
    frames: int,
    epsilons: Sequence[float] = (0.01, 0.05, 0.2),
    lanes: int = 8,
    seed: int = 0,
    chunk_steps: int = 64,
    n_step: int = 3,
    replace: bool = False,
    stop: Stop | None = None,
    as_json: bool,
) -> None:
    """Lets a teacher play and keeps its buffer; `n_step` is the largest horizon that the buffer is to serve.

    A larger buffer that it has gives way only with `replace`. Raises: UserError otherwise, before it plays.
    """
    from orchestrator.teachers.publishing import collect_experience

    store = TeacherStore.default()
    record = store.get(name)
    has = 0 if record.experience is None else record.experience.transitions * env_spec(record.env).frame_skip
    if has > frames and not replace:
        remedy = "play more of them, or pass --replace to lose it"
        raise UserError("--frames", frames, f"would replace the buffer of {record.id} of {has:,} frames", remedy)
    with show_bars("frames", show=not as_json) as bars:
        record = collect_experience(
            record,
            store,
            frames=frames,
            epsilons=epsilons,
            lanes=lanes,
            seed=seed,
            spec=chunk_spec(record.env, chunk_steps, n_step),
            stop=stop,
            on_progress=bars.count,
        )
    _print_result(record, store, as_json=as_json)


def import_teacher(options: ImportOptions, *, into: str | None = None, stop: Stop | None = None, as_json: bool) -> None:
    """Makes a teacher of another framework's files, or gives their buffer to one; see `importing`."""
    store = TeacherStore.default()
    with show_bars("rows", show=not as_json) as bars:
        if into is not None:
            record = importing.import_experience_into(store, into, options, stop=stop, on_progress=bars.count)
        else:
            record = importing.import_teacher(store, options, stop=stop, on_progress=bars.count, on_games=bars.games)
    _print_result(record, store, as_json=as_json)
    _warn_of_a_poor_score(record)


def register(options: "RegisterOptions", *, stop: Stop | None = None, as_json: bool) -> None:
    """Makes a teacher of a Python function; see `orchestrator.teachers.register_function`."""
    from orchestrator.teachers.register_function import register_function

    store = TeacherStore.default()
    with show_bars(show=not as_json) as bars:
        record = register_function(store, options, stop=stop, on_games=bars.games)
    _print_result(record, store, as_json=as_json)
    _warn_of_a_poor_score(record)


def publish(
    run: Path,
    *,
    name: str,
    policy_version: int | None = None,
    with_experience: bool = True,
    with_training_state: bool = True,
    episodes: int | None = None,
    licence: str = "Apache-2.0",
    stop: Stop | None = None,
    as_json: bool,
) -> None:
    """Makes a run's policy a teacher; see `orchestrator.teachers.publishing.publish_from_run`."""
    from orchestrator.teachers.publishing import publish_from_run

    store = TeacherStore.default()
    with show_bars(show=not as_json) as bars:
        record = publish_from_run(
            run,
            store,
            name=name,
            policy_version=policy_version,
            with_experience=with_experience,
            with_training_state=with_training_state,
            episodes=episodes,
            licence=licence,
            stop=stop,
            on_games=bars.games,
        )
    _print_result(record, store, as_json=as_json)


def evaluate(
    name: str,
    *,
    episodes: int = 30,
    epsilon: float = 0.001,
    lanes: int = 5,
    seed: int = 0,
    replace: bool = False,
    stop: Stop | None = None,
    as_json: bool,
) -> None:
    """Plays whole games with a teacher and writes the score into its record.

    A score of more games stays there unless `replace`; what was played is printed all the same.
    """
    from orchestrator.teachers.publishing import score_teacher

    store = TeacherStore.default()
    record = store.get(name)
    with show_bars(show=not as_json) as bars:
        record, played = score_teacher(
            record,
            store,
            episodes=episodes,
            seed=seed,
            epsilon=epsilon,
            lanes=lanes,
            keep_better_founded=not replace,
            stop=stop,
            on_games=bars.games,
        )
    if as_json:
        print_json(_brief(record) | {"played": played.model_dump(mode="json")})
        return
    _print_record(record, store)
    if record.score != played:
        assert record.score is not None
        print(f"{_describe(played)}; the score of {record.score.episodes} games stays, --replace would put this there")


def _warn_of_a_poor_score(record: TeacherRecord) -> None:
    score, random = record.score, record.random_score
    if score is not None and random is not None and score.mean_return <= random:
        print(
            f"upcycle: {record.id} plays no better than random ({score.mean_return:.2f}, random {random:.2f}): check "
            "task, checkpoint and protocol (--set env.field=value)",
            file=sys.stderr,
        )


def _print_result(record: TeacherRecord, store: TeacherStore, *, as_json: bool) -> None:
    if as_json:
        print_json(_brief(record))
    else:
        _print_record(record, store)


def _print_record(record: TeacherRecord, store: TeacherStore, *, note: str | None = None) -> None:
    made, score, experience, state = record.provenance, record.score, record.experience, record.training_state
    rows = {
        "task": f"{record.env.task} ({record.num_actions} actions{': ' if record.actions else ''}"
        f"{', '.join(record.actions)})",
        "observation": f"{record.frame_stack} frames of {' x '.join(map(str, record.frame_shape))}, "
        f"stack fill {record.env.stack_fill}, sticky actions {record.env.sticky_actions:g}"
        + (", each frame resized before the brighter is taken" if record.env.resize_order == "resize_first" else ""),
        "policy": record.describe_policy(),
        "score": "not scored" if score is None else _describe(score),
        "random play": "unknown" if record.random_score is None else f"{record.random_score:.2f}",
        "experience": "none"
        if experience is None
        else f"{experience.transitions:,} transitions in {experience.chunks:,} chunks",
        "its teachers": ", ".join(record.parents)
        or ("none: trained from scratch" if made.source is None else "none known: it was imported"),
        "made by": f"run {made.run_id or 'unknown'}"
        if made.source is None
        else f"another framework; imported as {made.source.format} from {made.source.path}",
        "training": ", ".join(
            f"{count:,} {what}"
            for count, what in ((made.learner_steps, "updates"), (made.env_frames, "environment frames of its own"))
            if count is not None
        )
        or "unknown",
        "weights": "none"
        if record.weights is None
        else f"{record.weights.bytes:,} bytes, SHA-256 {record.weights.sha256}",
        "training state": "none"
        if state is None
        else f"networks and {state.optimizer} after {state.learner_steps:,} learner steps, {state.bytes:,} bytes",
        "licence": record.licence,
        **_place(store, record),
    }
    if made.encoder is not None:
        rows["encoder"] = f"began as the torso of weights with SHA-256 {made.encoder}"
    if record.function is not None:
        often = "once for each stored state" if record.cacheable else "anew for every batch: it is not cacheable"
        rows["its teachers"], rows["made by"] = "none known", f"the authors of {record.function.distribution}"
        rows["cost"] = f"{record.function.seconds_per_state:.2g} s a state, in batches of 32; computed {often}"
    if record.differences:
        rows["not reproduced"] = "\n".join(record.differences)
    if record.parity is not None:
        compared = f"{record.parity.observations} observations, largest difference"
        rows["compared with its framework"] = f"{compared} {record.parity.largest_difference:.2g}"
    print_values(record.id, rows | ({"checked": note} if note else {}))


def _describe(score: Score) -> str:
    return (
        f"{score.mean_return:.2f} (95 % interval {score.interval_low:.2f} to {score.interval_high:.2f}, "
        f"{score.episodes} games, {score.actions} actions, epsilon {score.epsilon:g})"
    )


def _brief(record: TeacherRecord) -> dict[str, Any]:
    """The record without its long parts."""
    values = record.model_dump(mode="json")
    del values["provenance"]["config"]
    if values["experience"]:
        del values["experience"]["files"]
    return values


def _place(store: TeacherStore, record: TeacherRecord) -> dict[str, str]:
    """Where a teacher lies: the file of its record, or in a store of an older version its folder."""
    if record.revision:
        return {"record": f"{store.location}/{Revision(record).name}"}
    return {"folder": str(store.folder(record))}
