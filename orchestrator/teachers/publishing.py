"""What teachers do besides teaching: they are scored, they play to leave a buffer, and finished runs become some."""

import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from actors.envs import chunk_spec, env_spec
from actors.policy import QPolicy
from actors.rollout import EpisodeResults, collect_chunks, play_episodes, random_score
from learner.checkpoint import CheckpointFolder
from learner.training_arrays import to_training_arrays
from orchestrator.baselines import encoder_of, parents_of
from orchestrator.teachers.acting import acting, to_score, way_of_acting
from teacher_store.records.record import Provenance, Score, TeacherRecord
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import load_teacher
from teacher_store.training_state import write_training_state
from upcycle.config.extension_use import need_extensions
from upcycle.config.io import dump_config
from upcycle.config.run import EnvConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.experience.log_folder import log_parts
from upcycle.networks.action_names import action_names
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import OnGames, OnProgress, Stop, seed_for
from upcycle.runs.snapshots import Snapshot, SnapshotFolder, read_snapshot

_EPSILON: Final = 0.001
_RANDOM_EPISODES: Final = 20
_CHUNK_STEPS: Final = 64
_LOOKAHEAD: Final = 5


def score_teacher(
    record: TeacherRecord,
    store: TeacherStore,
    *,
    episodes: int,
    seed: int,
    epsilon: float = _EPSILON,
    lanes: int = 10,
    keep_better_founded: bool = False,
    stop: Stop | None = None,
    on_games: OnGames | None = None,
) -> tuple[TeacherRecord, Score]:
    """Plays whole games with a teacher and writes the score into its record, with the random policy's if it lacks it.

    Args:
      record: which teacher.
      store: where it lies.
      episodes: whole games to play.
      seed: of environments and exploration.
      epsilon: exploration.
      lanes: environments side by side.
      keep_better_founded: a score in its record that is of more games stays.
      stop: looked at before each step.
      on_games: called with the games so far.
    Returns: its new record, and the score of these games.
    Raises: UserError if it was stopped before the last game ended, or is no policy; CorruptDataError if the weights
      are damaged.
    """
    teacher = load_teacher(record, store, env=record.env)
    results = play_episodes(
        record.env,
        acting(teacher, seed=seed_for(seed, "actions", 0)),
        episodes=episodes,
        epsilon=epsilon,
        lanes=lanes,
        seed=seed_for(seed, "score", 0),
        threads=_threads(),
        stop=stop,
        on_games=on_games,
    )
    if not results.complete:
        raise UserError("teacher", record.id, "was stopped before its last game ended", "start the evaluation again")
    random = record.random_score if record.random_score is not None else _random_score(record.env, seed)
    score = to_score(results.returns, epsilon, way_of_acting(teacher))
    stays = keep_better_founded and record.score is not None and record.score.episodes > score.episodes
    changes = {"score": record.score if stays else score, "random_score": random}
    return store.replace(record.model_copy(update=changes)), score


def collect_experience(
    record: TeacherRecord,
    store: TeacherStore,
    *,
    frames: int,
    epsilons: Sequence[float],
    seed: int,
    lanes: int = 16,
    spec: ChunkSpec | None = None,
    stop: Stop | None = None,
    on_progress: OnProgress | None = None,
) -> TeacherRecord:
    """Lets a teacher play at least `frames` environment frames and keeps them as its buffer; returns its new record.

    Args:
      record: which teacher; a buffer that it has already is replaced.
      store: where it lies.
      frames: environment frames to play.
      epsilons: exploration, dealt out over the lanes in turn.
      seed: of environments and exploration.
      lanes: environments side by side.
      spec: form of the chunks; by default 64 steps that serve n-step targets of up to 5.
      stop: looked at before each step.
      on_progress: called with environment frames kept and to be kept.
    Raises: UserError if it was stopped or the disk is full; the teacher is as it was then.
    """
    spec = spec or chunk_spec(record.env, _CHUNK_STEPS, _LOOKAHEAD)
    frame_skip = env_spec(record.env).frame_skip
    temporary = Path(tempfile.mkdtemp(prefix=".collecting-", dir=store.staging))  # from there it is linked, not copied
    try:
        with ExperienceLogWriter.open(temporary / "log", spec, record.env) as log:
            chunks = collect_chunks(
                record.env,
                acting(load_teacher(record, store, env=record.env), seed=seed_for(seed, "actions", 0)),
                spec,
                frames=frames,
                epsilons=epsilons,
                lanes=lanes,
                seed=seed,
                threads=_threads(),
                stop=stop,
            )
            for chunk in chunks:
                log.append(encode_chunk(chunk, spec), chunk.num_transitions(spec))
                if on_progress is not None:
                    on_progress(min(log.num_transitions * frame_skip, frames), frames)
        if stop is not None and stop.is_set():
            raise UserError("teacher", record.id, "was stopped while it played", "start collecting again")
        return store.add_experience(record.id, temporary / "log")
    finally:
        shutil.rmtree(temporary)


def publish_from_run(
    run: Path,
    store: TeacherStore,
    *,
    name: str,
    policy_version: int | None = None,
    with_experience: bool = True,
    with_training_state: bool = True,
    episodes: int | None = None,
    licence: str = "Apache-2.0",
    stop: Stop | None = None,
    on_games: OnGames | None = None,
) -> TeacherRecord:
    """Makes a run's policy a teacher: its weights, its score, the experience that the run has logged, its descent.

    The score is that of the run's final evaluation if that was of the same policy version; else the policy plays. The
    networks and the optimizer of the run's newest checkpoint, if it has one, go along for those that fine-tune.

    Args:
      run: the run folder; the run may still be going on.
      store: where the teacher goes.
      name: what to call it.
      policy_version: one of the versions that the run still keeps; by default the one that the evaluator scored
        best, or the newest if it has scored none.
      with_experience: share the run's log.
      with_training_state: take the newest checkpoint along.
      episodes: whole games to play if there is no final evaluation; by default as many as the run's configuration says.
      licence: of the weights.
      stop: looked at while playing.
      on_games: called while it plays.
    Raises: UserError if the run has no such weights, or the store has this teacher already; CorruptDataError if its
      checkpoints are damaged.
    """
    folder = RunFolder.open(run)
    config, manifest = folder.config, folder.manifest
    path, snapshot = find_weights(folder, policy_version)
    spec = env_spec(config.env)
    policy = QPolicy(config.network, spec)
    policy.load(snapshot.tensors)
    version = int(snapshot.metadata["policy_version"])
    finals = [score for score in folder.scores() if score["kind"] == "final" and score["policy_version"] == version]
    if finals:
        returns: Sequence[float] | Array = finals[-1]["returns"]
    else:
        wanted = episodes or config.evaluation.final_episodes
        results = _play(folder, policy, wanted, stop=stop, on_games=on_games)
        returns = results.returns
    random = manifest.get("random_score")
    with _training_state(folder if with_training_state else None, store) as training_state:
        return store.publish(
            NewTeacher(
                name=name,
                env=config.env,
                network=config.network,
                frame_shape=spec.frame_shape,
                frame_stack=spec.stack,
                num_actions=spec.num_actions,
                actions=action_names(config.env),
                weights=path,
                score=to_score(returns, config.evaluation.epsilon),
                random_score=float(random) if random is not None else _random_score(config.env, config.seed),
                training_state=training_state,
                log_directory=folder.experience if with_experience and _has_log(folder) else None,
                licence=licence,
                parents=parents_of(manifest),
                provenance=Provenance(
                    run_id=str(manifest["run_id"]),
                    config=dump_config(config),
                    learner_steps=int(snapshot.metadata["learner_steps"]),
                    env_frames=int(snapshot.metadata["env_frames"]),
                    encoder=encoder_of(manifest).get("sha256"),
                    versions=manifest.get("versions", {}),
                ),
            )
        )


@contextmanager
def _training_state(folder: RunFolder | None, store: TeacherStore) -> Generator[Path | None]:
    """A file with the training state of the run's newest checkpoint, gone afterwards; None without a checkpoint."""
    found = None if folder is None else CheckpointFolder(folder.checkpoints).load_newest()
    if folder is None or found is None:
        yield None
        return
    config, spec = folder.config, env_spec(folder.config.env)
    network = build_network(
        config.network, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions
    )
    arrays = to_training_arrays(found[1]["train_state"], network, config.learner.optimizer)
    # From there it is linked, not copied.
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=store.staging) as temporary:
        path = Path(temporary) / "state"
        write_training_state(path, arrays)
        yield path


def find_weights(folder: RunFolder, policy_version: int | None) -> tuple[Path, Snapshot]:
    """Weights of a run and their file.

    Args:
      folder: of the run.
      policy_version: one of those that it keeps; None takes the one evaluated best so far, or else the newest.
    Raises: UserError if there are none, or not these, or the run's extensions are missing.
    """
    need_extensions(folder.extensions, owner="run", name=folder.path.name)
    snapshots = SnapshotFolder(folder.snapshots)
    if policy_version is None and (best := snapshots.best()) is not None:
        return best, read_snapshot(best)
    if policy_version is None:
        ref = snapshots.latest()
        if ref is None:
            raise UserError("run", str(folder.path), "has no weights yet", "let it publish its first policy version")
        return snapshots.path / ref.path, snapshots.load(ref)
    kept = snapshots.versions()
    if policy_version not in kept:
        raise UserError("--policy-version", policy_version, "is not kept", f"choose one of {', '.join(map(str, kept))}")
    path = snapshots.path / snapshots.name_of(policy_version)
    return path, read_snapshot(path)


def _play(
    folder: RunFolder, policy: QPolicy, episodes: int, *, stop: Stop | None, on_games: OnGames | None
) -> EpisodeResults:
    config = folder.config
    results = play_episodes(
        config.env,
        policy.q_values,
        episodes=episodes,
        epsilon=config.evaluation.epsilon,
        lanes=config.evaluation.lanes,
        seed=seed_for(config.seed, "publish", 0),
        threads=_threads(),
        stop=stop,
        on_games=on_games,
    )
    if not results.complete:
        raise UserError("run", str(folder.path), "was stopped before its last game ended", "start publishing again")
    return results


def _threads() -> int:
    """All cores to EnvPool: a teacher plays alone, and its batches are too small for torch to use more than one."""
    torch.set_num_threads(1)
    return os.cpu_count() or 1


def _has_log(folder: RunFolder) -> bool:
    try:
        return bool(log_parts(folder.experience))
    except UserError:  # the run was told not to log (replay.log_experience)
        return False


def _random_score(env: EnvConfig, seed: int) -> float:
    return random_score(env, _RANDOM_EPISODES, seed_for(seed, "random", 0))
