"""Agents and buffers of other frameworks become teachers: found out, read, checked, published, played.

source -> importers that recognise it -> weights and rows in our terms -> record, weight file, experience log
       -> teacher store -> games under the record's own protocol -> score
"""

import hashlib
import math
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from actors.envs import EnvSpec, chunk_spec, env_spec
from actors.rollout import Stop
from orchestrator.parity import check_parity, network_of
from orchestrator.teachers import Progress, score_teacher
from teacher_store.importers.imported import ImportedAgent, ImportedExperience, Request
from teacher_store.importers.registry import find_importers
from teacher_store.importers.source import Source as Files
from teacher_store.importers.writing import write_experience
from teacher_store.records import Parity, Provenance, Score, Source, TeacherRecord
from teacher_store.store import TeacherStore
from upcycle.config import EnvConfig
from upcycle.config_io import parse_config, with_overrides
from upcycle.errors import UserError
from upcycle.snapshots import write_snapshot
from upcycle.statistics import mean_interval

_CHUNK_STEPS: Final = 64


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the user asks for.

    Attributes:
      path: file or folder of weights, of a buffer, or of both.
      name: what to call the teacher.
      format: name of an importer, or "auto".
      task: EnvPool task, where the files do not say it.
      request: which of several agents in there, and what the user puts up with.
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
    files: Files
    agent: ImportedAgent | None
    experience: ImportedExperience | None

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What its framework plays under, without the task."""
        known = self.agent or self.experience
        assert known is not None
        return known.protocol

    @property
    def frame_shape(self) -> tuple[int, ...]:
        known = self.agent or self.experience
        assert known is not None
        return known.frame_shape


def import_teacher(
    store: TeacherStore, options: ImportOptions, *, stop: Stop | None = None, on_progress: Progress | None = None
) -> TeacherRecord:
    """Reads an agent, a buffer or both, publishes them as a teacher, and lets the agent play for its score.

    Weights are checked before anything is written: every tensor against the network, their values against `reference`.
    An import of a large buffer that was interrupted goes on where it was when it is asked for again.

    Raises: UserError for what the user can put right, CorruptDataError for files that are damaged, hostile or of
      another shape than their framework writes. The store is as it was then, but for a score that was not reached.
    """
    contents = _read(options)
    env, spec = _environment(options, contents)
    parity = None
    if contents.agent is not None:
        network = network_of(contents.agent, spec, where=str(options.path))
        if options.reference is not None:
            parity = check_parity(network, contents.agent.kind, options.reference)
    elif options.reference is not None:
        raise UserError("--reference", str(options.reference), "is for weights, and there are none", "leave it out")
    with _staging(store, options) as folder:
        record = _publish(store, options, contents, env, spec, folder, parity, stop=stop, on_progress=on_progress)
    if contents.agent is None or options.episodes == 0:
        return record
    return score_teacher(
        record, store, episodes=options.episodes, seed=options.seed, stop=stop, on_progress=on_progress
    )


def import_experience_into(
    store: TeacherStore,
    name: str,
    options: ImportOptions,
    *,
    stop: Stop | None = None,
    on_progress: Progress | None = None,
) -> TeacherRecord:
    """Reads a buffer and gives it to a teacher that the store has, in place of the one it may have.

    Raises: as `import_teacher`; UserError if the buffer is of another environment than the teacher.
    """
    record, contents = store.get(name), _read(options)
    if contents.experience is None:
        raise UserError("--into", name, f"{options.path} holds no buffer", "leave out --into to import its weights")
    spec = env_spec(record.env)
    _check_shapes(options, spec, contents.experience)
    with _staging(store, options) as folder:
        log = _write_log(contents.experience, folder, options, record.env, stop=stop, on_progress=on_progress)
        return store.add_experience(record.id, log)


def _read(options: ImportOptions) -> _Contents:
    files = Files(options.path)
    found = find_importers(files, options.format)
    agent = experience = None
    if found.agent is not None and found.agent.read_agent is not None:
        files = Files(options.path)  # its fingerprint is of what this reads
        agent = found.agent.read_agent(files, options.request)
    if options.replay is not None:
        buffer = find_importers(Files(options.replay)).experience
        if buffer is None or buffer.read_experience is None:
            raise UserError("--replay", str(options.replay), "holds no buffer", "give the folder of the replay log")
        experience = buffer.read_experience(Files(options.replay), options.request)
    elif found.experience is not None and found.experience.read_experience is not None:
        experience = found.experience.read_experience(Files(options.path), options.request)
    if agent is None and experience is None:
        raise UserError("PATH", str(options.path), "holds neither weights nor a buffer", "give the agent's own folder")
    known = found.agent or found.experience
    assert known is not None
    return _Contents(known.name, files, agent, experience)


def _environment(options: ImportOptions, contents: _Contents) -> tuple[EnvConfig, EnvSpec]:
    """The environment that the teacher is to be played in, checked against what is in the files."""
    task = options.task or (contents.experience.task if contents.experience is not None else None)
    wanted = [override for override in options.overrides if override.startswith("env.")]
    if len(wanted) < len(options.overrides):
        other = next(override for override in options.overrides if override not in wanted)
        raise UserError("--set", other, "is no field of the environment", "write for example env.sticky_actions=0.25")
    if task is None:
        raise UserError("--task", "", "the files do not say which environment", "give it, for example --task Pong-v5")
    values: dict[str, Any] = {**contents.protocol, "task": task}
    if len(contents.frame_shape) > 1:
        values.setdefault("frame_size", contents.frame_shape[0])
    if contents.agent is not None:
        values.setdefault("frame_stack", contents.agent.frame_stack)
    env = parse_config(with_overrides({"phases": ["rl"], "env": values}, wanted)).env
    spec = env_spec(env)
    for part in (contents.agent, contents.experience):
        if part is not None:
            _check_shapes(options, spec, part)
    return env, spec


def _check_shapes(options: ImportOptions, spec: EnvSpec, part: ImportedAgent | ImportedExperience) -> None:
    if part.num_actions not in (None, spec.num_actions):
        problem = f"has {spec.num_actions} actions, {options.path} is for {part.num_actions}"
        remedy = "give the task that it was trained on" + (
            ", or --set env.full_action_space=true" if part.num_actions == 18 else ""
        )
        raise UserError("--task", options.task, problem, remedy)
    exact = isinstance(part, ImportedExperience) or len(spec.frame_shape) == 1
    if len(part.frame_shape) != len(spec.frame_shape) or (exact and part.frame_shape != spec.frame_shape):
        problem = f"shows frames of {spec.frame_shape}, {options.path} has such of {part.frame_shape}"
        remedy = f"set env.frame_size={part.frame_shape[0]}, or give the task that it is of"
        raise UserError("--task", options.task, problem, remedy)


def _publish(
    store: TeacherStore,
    options: ImportOptions,
    contents: _Contents,
    env: EnvConfig,
    spec: EnvSpec,
    folder: Path,
    parity: Parity | None,
    *,
    stop: Stop | None,
    on_progress: Progress | None,
) -> TeacherRecord:
    agent, experience = contents.agent, contents.experience
    weights = None
    if agent is not None:
        weights = folder / "weights"
        write_snapshot(weights, agent.tensors, {"format": contents.format})
    log = None
    if experience is not None:
        log = _write_log(experience, folder, options, env, stop=stop, on_progress=on_progress)
    facts = {**(experience.facts if experience is not None else {}), **(agent.facts if agent is not None else {})}
    source = Source(
        format=contents.format, path=options.path.resolve().name, sha256=contents.files.fingerprint(), facts=facts
    )
    return store.publish(
        name=options.name,
        env=env,
        network=agent.network if agent is not None else None,
        kind=agent.kind if agent is not None else "experience",
        frame_shape=spec.frame_shape,
        frame_stack=spec.stack,
        num_actions=spec.num_actions,
        weights=weights,
        differences=agent.differences if agent is not None else (),
        parity=parity,
        score=None if experience is None or agent is not None else _score_of(experience),
        log_directory=log,
        licence=options.licence,
        provenance=Provenance(
            learner_steps=agent.learner_steps if agent is not None else None,
            env_frames=agent.env_frames if agent is not None else None,
            source=source,
        ),
    )


def _write_log(
    experience: ImportedExperience,
    folder: Path,
    options: ImportOptions,
    env: EnvConfig,
    *,
    stop: Stop | None,
    on_progress: Progress | None,
) -> Path:
    log = folder / "log"
    spec = chunk_spec(env, _CHUNK_STEPS, options.n_step)
    write_experience(experience, log, spec, env, stop=stop, on_progress=on_progress)
    if stop is not None and stop.is_set():
        raise UserError("PATH", str(options.path), "its import was stopped", "give the same command to go on with it")
    return log


def _score_of(experience: ImportedExperience) -> Score | None:
    """What those who left a buffer have scored in it."""
    returns = experience.returns
    if returns is None or not len(returns) or not math.isfinite(float(returns.sum())):
        return None
    interval = mean_interval(returns)
    return Score(
        mean_return=round(float(returns.mean()), 6),
        episodes=len(returns),
        epsilon=0.0,
        interval_low=interval.low,
        interval_high=interval.high,
    )


@contextmanager
def _staging(store: TeacherStore, options: ImportOptions) -> Generator[Path]:
    """A folder beside the store's files, the same for the same import, which stays only if that was interrupted."""
    key = hashlib.sha256(f"{options.path.resolve()} {options.replay} {options.request} {options.name}".encode())
    folder = store.root / f".importing-{key.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)
