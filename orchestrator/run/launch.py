"""`upcycle run` and `upcycle resume`: from a checked configuration to a run that has ended, one way or another.

    plan (everything that can be refused) -> Redis, Ray -> run folder -> driver -> final evaluation, summary, report

The folder of a new run appears only once it can be started, and goes away again if its start is refused.
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from orchestrator.cluster.local_ray import StartStopped, address_to_join
from orchestrator.reports.summary import Summary
from orchestrator.run import lease
from orchestrator.run.disk_watch import check_disk, spare_room
from orchestrator.run.driver import Driver, Outcome, RunFailed
from orchestrator.run.finish import final_evaluation, write_results
from orchestrator.run.preparation import Plan, prepare_run
from orchestrator.run.progress import View
from orchestrator.run.run_checks import check_run, with_teacher_protocol
from orchestrator.run.signals import stop_on_signals
from orchestrator.run.timings import Timings
from orchestrator.run.tracking import check_redis, rebuild, start_tracker
from teacher_store.store.store import TeacherStore
from upcycle import __version__
from upcycle.config.extension_use import need_extensions
from upcycle.config.io import load_config
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, close_logging, configure_logging
from upcycle.runs.tracker import Tracker

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Cluster

_log = structlog.get_logger(__name__)

_VERSIONS: Final = ("envpool", "grpcio", "numpy", "ray", "redis", "torch")
_FIXED: Final = ("env", "network", "encoder", "phases")
"""Sections that a checkpoint depends on; resuming cannot change them."""


def run(
    config: RunConfig,
    *,
    preset: str,
    path: Path,
    overwrite: bool,
    view: View,
    place: Path | None,
    timings: Timings | None = None,
) -> Summary | None:
    """Starts a new run in the folder `path` and sees it through.

    Args:
      place: of `early_start.local_place`.
      timings: where the steps of its start and end are noted.
    Returns: its summary, or None if it was stopped before its end.
    Raises: UserError or CorruptDataError, leaving no folder behind, if it cannot be started; RunFailed.
    """
    stop, timings = StopSignal(), timings or Timings()
    timings.begins_with("imports")
    with stop_on_signals(stop), view:
        _refuse_existing(path, overwrite=overwrite)
        check_disk(path, config.cluster)
        check_redis(config)
        store = TeacherStore.default()
        config = with_teacher_protocol(config, store)
        with timings.step("plan"):
            plan = prepare_run(check_run(config, store), store, stop=stop, view=view)
        if stop.is_set():
            return None
        manifest = plan.to_manifest() | {"preset": preset, "versions": _versions(), "wall_seconds": 0.0}
        with ExitStack() as resources:
            try:
                cluster = resources.enter_context(_connect(config, place, view, stop, timings))
            except StartStopped:
                return None
            if path.exists():
                _remove(path)
            folder = RunFolder.create(path, config, **manifest)
            started = False
            try:
                with lease.hold(folder), _logging(folder):
                    tracker = start_tracker(folder, cluster, resources, timings)
                    started = True
                    return _stretch(folder, cluster, tracker, resources, view, stop, timings)
            finally:
                if not started:
                    resources.close()
                    shutil.rmtree(path, ignore_errors=True)


def resume(
    path: Path, overrides: Sequence[str], *, view: View, place: Path | None, timings: Timings | None = None
) -> Summary | None:
    """Goes on with a run from its newest checkpoint, replay seeded from its own experience log.

    Raises: UserError if it is running, has finished and nothing was changed, or a change does not fit its checkpoint.
    """
    folder = RunFolder.open(path)
    stop, timings = StopSignal(), timings or Timings()
    timings.begins_with("imports")
    with stop_on_signals(stop), view, lease.hold(folder):
        old, config = folder.config, load_config(path / "config.toml", overrides, stored=True)
        _check_changes(folder, old, config)
        need_extensions(folder.extensions, owner="run", name=path.name)
        check_disk(path, config.cluster)
        check_redis(config)
        with timings.step("plan"):
            store = TeacherStore.default()
            plan = prepare_run(check_run(config, store, begins=False), store, stop=stop, view=view)
        if stop.is_set():
            return None
        _check_spec(folder, plan)
        with ExitStack() as resources:
            try:
                cluster = resources.enter_context(_connect(config, place, view, stop, timings))
            except StartStopped:
                return None
            folder.replace_config(config)
            known = plan.to_manifest()
            folder.update_manifest(**{key: known[key] for key in ("teacher", "teachers", "extensions")})
            folder.forget_processes()
            with _logging(folder):
                tracker = start_tracker(folder, cluster, resources, timings)
                return _stretch(folder, cluster, tracker, resources, view, stop, timings)


def _stretch(
    folder: RunFolder,
    cluster: "Cluster",
    tracker: Tracker,
    resources: ExitStack,
    view: View,
    stop: StopSignal,
    timings: Timings,
) -> Summary | None:
    """One stretch of a run, and its end. `resources` (Ray, Redis) are closed before the final evaluation."""
    started, before = time.monotonic(), float(folder.manifest.get("wall_seconds", 0.0))
    folder.update_manifest(state="running", reason=None, driver={"pid": os.getpid(), "host": socket.gethostname()})
    state: Literal["finished", "stopped", "failed"] = "failed"
    reason: str | None = None
    metrics = resources.enter_context(_metrics(folder, cluster))
    try:
        with stop_on_signals(stop):  # Ray has installed its own since
            view.say(f"run {folder.config.name} started; its folder is {folder.path}")
            with spare_room(folder.path):  # what says how a run ended must find some
                outcome = Driver(
                    folder, cluster, tracker=tracker, metrics=metrics, view=view, stop=stop, timings=timings
                ).run()
            rebuild(tracker, folder)
            resources.close()
            state = "stopped"
            if outcome.finished:
                with timings.step("final evaluation"):
                    score = final_evaluation(folder, view, stop)
                state = "stopped" if score is None else "finished"
    except (UserError, RunFailed) as error:
        reason = str(error)
        if isinstance(error, UserError) and error.field == "disk":
            state = "stopped"  # the learner was asked for a checkpoint, as at any other stop
        _log.error("run_failed", error=reason)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        _log.exception("run_failed")
        raise
    except KeyboardInterrupt:
        reason = "cut short by a second signal"
        _log.warning("run_cut_short")
        raise
    finally:
        seconds = before + time.monotonic() - started
        try:
            folder.update_manifest(state=state, reason=reason, driver=None, wall_seconds=seconds)
        except UserError as error:  # no room for it: what has ended the run is what counts
            _log.error("manifest_not_written", error=str(error))
    return _conclude(folder, outcome, view, timings, finished=state == "finished")


def _conclude(folder: RunFolder, outcome: Outcome, view: View, timings: Timings, *, finished: bool) -> Summary | None:
    if finished:
        return write_results(folder, outcome, timings)
    saved = "with a checkpoint" if any(folder.checkpoints.iterdir()) else "before its first checkpoint"
    view.say(f"stopped {saved}; go on with: upcycle resume {folder.path.name}")
    return None


@contextmanager
def _connect(
    config: RunConfig, place: Path | None, view: View, stop: StopSignal, timings: Timings
) -> Generator["Cluster"]:
    """Ray, joined or started in `place`. Raises: UserError if it cannot be reached; StartStopped."""
    address = address_to_join(config.cluster)
    view.say("starting Ray" if address is None else f"joining Ray at {address}")
    with timings.step("start Ray"):
        from orchestrator.cluster.ray_cluster import Cluster

        cluster = Cluster(config, f"upcycle-{uuid.uuid4().hex[:8]}", place, view.say, stop)
    try:
        yield cluster
    finally:
        with timings.step("end Ray"):
            cluster.close()


@contextmanager
def _logging(folder: RunFolder) -> Generator[None]:
    configure_logging("driver", folder.path.name, file=folder.logs / "driver-0.jsonl")
    try:
        yield
    finally:
        close_logging()


@contextmanager
def _metrics(folder: RunFolder, cluster: "Cluster") -> Generator[Metrics]:
    metrics = Metrics("driver", folder.path.name)
    folder.announce_endpoint("metrics", 0, metrics.serve(cluster.node_address))
    metrics.set("process_up", 1)
    try:
        yield metrics
    finally:
        metrics.close()
        folder.metrics_targets.unlink(missing_ok=True)  # nobody listens there any more


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise UserError("run", path.name, "exists already", "resume it, choose another --name, or pass --overwrite")
    if not (path / "manifest.json").is_file():
        raise UserError("run", str(path), "is no run folder, so it is not overwritten", "choose another --name")
    pid = lease.holder(RunFolder(path))
    if pid is not None:
        raise UserError("run", path.name, f"is running (process {pid})", f"stop it first: upcycle stop {path.name}")


def _remove(path: Path) -> None:
    """Out of the way at once, so that no half of an old run can pass for a run."""
    grave = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}.removed")
    path.rename(grave)
    shutil.rmtree(grave)


def _check_changes(folder: RunFolder, old: RunConfig, new: RunConfig) -> None:
    if folder.manifest["state"] == "finished" and new == old:
        raise UserError(
            "run", folder.path.name, "has finished", "give it more to do, for example --set rl.env_frames=8000000"
        )
    changed = [name for name in _FIXED if getattr(new, name) != getattr(old, name)]
    if new.name != old.name:
        changed.append("name")
    if new.replay.num_shards != old.replay.num_shards:
        changed.append("replay.num_shards")
    if new.learner.ranks != old.learner.ranks:
        changed.append("learner.ranks")
    if changed:
        remedy = "start a new run"
        if changed[0] == "replay.num_shards":
            remedy = f"resume it, then: upcycle replay scale {old.name} --shards {new.replay.num_shards}"
        raise UserError("--set", changed[0], "cannot change in a run that has begun", remedy)


def _check_spec(folder: RunFolder, plan: Plan) -> None:
    if folder.manifest["chunk_spec"] != plan.spec.to_json():
        remedy = "leave replay.chunk_steps and replay.max_n_step as they were, or start a new run"
        raise UserError("--set", plan.spec.to_json(), "would change the chunks of this run", remedy)


def _versions() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {"upcycle": __version__, "python": platform.python_version(), **versions}
