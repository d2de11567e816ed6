"""Agents and buffers of other frameworks become teachers: found out, read, checked, published, played.

source -> importers that recognise it -> weights and rows in our terms -> record, weight file, experience log
       -> teacher store -> games under the record's own protocol -> score
"""

import hashlib
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from actors.envs import chunk_spec, env_spec
from actors.lanes import EnvSpec
from teacher_store.importers.formats.upcycle_bundle import is_bundle
from teacher_store.importers.imported import ImportedAgent, ImportedExperience, Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import find_importers
from teacher_store.importers.writing import write_experience
from teacher_store.records.record import Provenance, Source, TeacherRecord, teacher_id
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from upcycle.config.io import parse_config, with_overrides
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.files import disk_full_explained
from upcycle.networks.action_names import action_names
from upcycle.runs.runtime import OnGames, OnProgress, Stop
from upcycle.runs.snapshots import write_snapshot

_CHUNK_STEPS: Final = 64


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user asks for.

    Attributes:
      path: file or folder of weights, of a buffer, or of both.
      name: what to call the teacher.
      format: name of an importer, or "auto".
      task: EnvPool task that it is of; None where the files say it.
      request: which of several agents in there.
      replay: where the buffer is, if it is elsewhere.
      overrides: `env.field=value`, against what the format says of its protocol.
      reference: an .npz file of observations and of what the original framework makes of them.
      licence: of weights and buffer, an SPDX identifier.
      n_step: longest horizon of a target that the buffer shall serve.
      episodes: whole games to play for the score; 0 leaves the teacher unscored.
      seed: of these games.
    """

    path: Path
    name: str
    format: str = "auto"
    task: str | None = None
    request: Request = field(default_factory=Request)
    replay: Path | None = None
    overrides: tuple[str, ...] = ()
    reference: Path | None = None
    licence: str = "NOASSERTION"
    n_step: int = 5
    episodes: int = 30
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Contents:
    """What was found in the sources; at least one of both."""

    format: str
    agent: ImportedAgent | None
    experience: ImportedExperience | None


def import_teacher(
    store: TeacherStore,
    options: ImportOptions,
    *,
    stop: Stop | None = None,
    on_progress: OnProgress | None = None,
    on_games: OnGames | None = None,
) -> TeacherRecord:
    """Reads an agent, a buffer or both, publishes them as a teacher, and lets the agent play for its score.

    Weights are checked before anything is written: every tensor against the network, their values against `reference`.
    A bundle of another store brings all of this with it, and its options are not looked at.
    An import of a large buffer that was interrupted goes on where it was when it is asked for again.

    Args:
      on_progress: called with rows of the buffer written and to be written.
      on_games: called while the agent plays for its score.
    Raises: UserError for what the user can put right, CorruptDataError for files that are damaged, hostile or of
      another shape than their framework writes. The store is as it was then, but for a score that was not reached.
    """
    if is_bundle(SourceFiles(options.path)):
        from orchestrator.teachers.bundles import (
            import_bundle,  # this and the others with PyTorch, which buffers can do without
        )

        return import_bundle(store, options.path)
    contents = _read(options)
    env, spec = _environment(options, contents)
    agent, parity = contents.agent, None
    if agent is not None:
        from orchestrator.teachers.parity import check_parity, network_of

        network = network_of(agent, spec, where=str(options.path))
        if options.reference is not None:
            parity = check_parity(network, options.reference, agent.kind)
    elif options.reference is not None:
        raise UserError("--reference", str(options.reference), "is for weights, and there are none", "leave it out")
    with _staging(store, options) as folder:
        weights = None if agent is None else _write_weights(agent, folder, store, options.name)
        record = store.publish(
            NewTeacher(
                name=options.name,
                env=env,
                network=None if agent is None else agent.network,
                frame_shape=spec.frame_shape,
                frame_stack=spec.stack,
                num_actions=spec.num_actions,
                actions=action_names(env),
                weights=weights,
                kind="experience" if agent is None else agent.kind,
                differences=() if agent is None else agent.differences,
                parity=parity,
                log_directory=_write_log(contents.experience, folder, options, env, stop=stop, on_progress=on_progress),
                licence=options.licence,
                provenance=_provenance(options, contents),
            )
        )
    if agent is None or options.episodes == 0:
        return record
    from orchestrator.teachers.publishing import score_teacher

    record, _ = score_teacher(record, store, episodes=options.episodes, seed=options.seed, stop=stop, on_games=on_games)
    return record


def import_experience_into(
    store: TeacherStore,
    name: str,
    options: ImportOptions,
    *,
    stop: Stop | None = None,
    on_progress: OnProgress | None = None,
) -> TeacherRecord:
    """Reads a buffer and gives it to a teacher that the store has, in place of the one it may have.

    Raises: as `import_teacher`; UserError if the buffer is of another environment than the teacher.
    """
    record, contents = store.get(name), _read(options)
    if contents.experience is None:
        raise UserError("--into", name, f"{options.path} holds no buffer", "leave out --into to import its weights")
    _check_shapes(options, record.env.task, env_spec(record.env), contents.experience)
    with _staging(store, options) as folder:
        log = _write_log(contents.experience, folder, options, record.env, stop=stop, on_progress=on_progress)
        assert log is not None
        return store.add_experience(record.id, log)


def _read(options: ImportOptions) -> _Contents:
    files = SourceFiles(options.path)
    found = find_importers(files, options.format)
    read_agent = None if found.agent is None else found.agent.read_agent
    read_experience = None if found.experience is None else found.experience.read_experience
    agent = None if read_agent is None else read_agent(files, options.request)
    if options.replay is not None:
        buffer = find_importers(SourceFiles(options.replay)).experience
        if buffer is None or buffer.read_experience is None:
            raise UserError("--replay", str(options.replay), "holds no buffer", "give the folder of the replay log")
        # Its checkpoints are counted in their own way: the newest is meant, whichever the agent's is.
        experience = buffer.read_experience(
            SourceFiles(options.replay), Request(accept_lossy=options.request.accept_lossy)
        )
    else:
        experience = None if read_experience is None else read_experience(files, options.request)
    known = found.agent or found.experience
    assert known is not None
    return _Contents(known.name, agent, experience)


def parse_environment(values: Mapping[str, Any], overrides: Sequence[str]) -> EnvConfig:
    """A section `env` of these fields, changed by `env.field=value`. Raises: UserError naming what is none of them."""
    for override in overrides:
        if not override.startswith("env."):
            problem, remedy = "is no field of the environment", "write for example env.sticky_actions=0.25"
            raise UserError("--set", override, problem, remedy)
    return parse_config(with_overrides({"phases": ["rl"], "env": dict(values)}, overrides)).env


def _environment(options: ImportOptions, contents: _Contents) -> tuple[EnvConfig, EnvSpec]:
    """The environment that the teacher is to be played in, checked against what is in the files."""
    task = options.task or (contents.experience.task if contents.experience is not None else None)
    if task is None:
        raise UserError("--task", "", "the files do not say which environment", "give it, for example --task Pong-v5")
    known = contents.agent or contents.experience
    assert known is not None
    env = parse_environment({**known.protocol, "task": task}, options.overrides)
    spec = env_spec(env)
    for part in (contents.agent, contents.experience):
        if part is not None:
            _check_shapes(options, env.task, spec, part)
    return env, spec


def _check_shapes(options: ImportOptions, task: str, spec: EnvSpec, part: ImportedAgent | ImportedExperience) -> None:
    """Raises UserError if what was read is of another environment."""
    if part.num_actions not in (None, spec.num_actions):
        problem = f"has {spec.num_actions} actions, {options.path} is for {part.num_actions}"
        raise UserError("--task", task, problem, "give the task that it was trained on")
    if part.frame_shape != spec.frame_shape:
        problem = f"shows frames of {spec.frame_shape}, {options.path} has such of {part.frame_shape}"
        remedy = f"set env.frame_size={part.frame_shape[0]}, or give the task that it is of"
        raise UserError("--task", task, problem, remedy)


def _write_weights(agent: ImportedAgent, folder: Path, store: TeacherStore, name: str) -> Path:
    """The weight file. Raises: UserError if the store has this teacher: before its buffer is read, which takes long."""
    path = folder / "weights"
    identity = teacher_id(name, write_snapshot(path, agent.tensors, {}))
    if identity in {record.id for record in store.list()}:
        raise UserError("teacher", identity, "is in the store already", "choose another --name")
    return path


def _write_log(
    experience: ImportedExperience | None,
    folder: Path,
    options: ImportOptions,
    env: EnvConfig,
    *,
    stop: Stop | None,
    on_progress: OnProgress | None,
) -> Path | None:
    if experience is None:
        return None
    log = folder / "log"
    spec = chunk_spec(env, _CHUNK_STEPS, options.n_step)
    write_experience(experience, log, spec, env, stop=stop, on_progress=on_progress)
    if stop is not None and stop.is_set():
        raise UserError("PATH", str(options.path), "its import was stopped", "give the same command to go on with it")
    return log


def _provenance(options: ImportOptions, contents: _Contents) -> Provenance:
    agent, experience = contents.agent, contents.experience
    facts = {**(experience.facts if experience is not None else {}), **(agent.facts if agent is not None else {})}
    known = agent.sha256 if agent is not None else experience.fingerprint if experience is not None else ""
    return Provenance(
        learner_steps=agent.learner_steps if agent is not None else None,
        env_frames=agent.env_frames if agent is not None else None,
        source=Source(format=contents.format, path=options.path.resolve().name, sha256=known, facts=facts),
    )


@contextmanager
def _staging(store: TeacherStore, options: ImportOptions) -> Generator[Path]:
    """A folder from where the store takes files, the same for the same import.

    It stays if the import fails after it has begun to write a buffer; the next one goes on with it.
    """
    key = hashlib.sha256(repr(replace(options, path=options.path.resolve())).encode()).hexdigest()
    folder = store.staging / f"importing-{key[:16]}"
    with disk_full_explained(folder):
        folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        if not (folder / "log").exists():
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
