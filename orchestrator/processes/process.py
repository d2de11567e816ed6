"""What the processes of a run do, whoever starts them: a loop in a thread of its own, and answers about it beside it.

A process is told its role, its index and the run's folder; everything else it reads from there (configuration,
manifest, endpoints). So a process that died is started again with the same three words.

    run folder --> build the role's parts --> loop.run() ... until it ends by itself or is asked to stop
"""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import structlog
from pydantic import SecretStr

from orchestrator.baselines import Baselines
from orchestrator.processes.context import Context, Role
from upcycle.errors import UserError
from upcycle.experience import kernels
from upcycle.experience.chunks import ChunkSpec
from upcycle.files import explain_os_error
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, configure_logging, keep_heap, seed_for
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.runs.tracker import Tracker
from upcycle.url_secrets import masked

if TYPE_CHECKING:  # torch and EnvPool are imported where a role needs them
    from actors.rollout import QFunction

_log = structlog.get_logger(__name__)

_SWITCH_SECONDS: Final = 0.0005  # at Python's 5 ms a learner step waits for its own fetch thread a tenth of the time

State = Literal["starting", "running", "finished", "failed"]


class Loop(Protocol):
    """What a role does."""

    def run(self) -> None:
        """Works until the work is done or the stop signal is set."""
        ...

    def status(self) -> dict[str, Any]:
        """Plain values about the work so far; called from other threads."""
        ...


class Process:
    """One process of a run. `start` returns at once; `status` never waits for the work.

    Args:
      host: address of this machine within the cluster.
      password: of the run's Redis, which no file says.
    """

    def __init__(self, role: Role, index: int, run: Path, host: str, password: SecretStr | None = None) -> None:
        folder = RunFolder.open(run)
        name = f"{role}-{index}"
        configure_logging(role, run.name, index, file=folder.logs / f"{name}.jsonl")
        keep_heap()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._role: Role = role
        self._folder, self._index, self._host, self._password = folder, index, host, password
        self._stop = StopSignal()
        self._metrics = Metrics(role, run.name, index)
        self._metrics.moments.first("up")
        self._metrics.waits.waiting("start", "its parts are being built")
        self._metrics_address = self._metrics.serve(host)
        self._state: State = "starting"
        self._error: str | None = None
        self._user_error: tuple[str, str, str, str] | None = None
        self._loop: Loop | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Builds and runs the role's loop in the process's own thread."""
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Of the process: `state`, `error`, `user_error`, `pid`, `metrics` (address), `moments`, loop's `detail`.

        `waiting` is the JSON of the `upcycle.runs.waits.Wait` that the process is in; None while it works.
        `plain_kernels` is why it runs without the native ones; None if it has them.
        """
        detail = self._loop.status() if self._loop is not None else {}
        wait = self._metrics.waits.now()
        return {
            "state": self._state,
            "error": self._error,
            "user_error": self._user_error,
            "pid": os.getpid(),
            "metrics": self._metrics_address,
            "moments": self._metrics.moments.to_json(),
            "waiting": None if wait is None else wait.to_json(),
            "plain_kernels": kernels.why_plain or None,
            "detail": detail,
        }

    def stop(self, timeout_seconds: float) -> bool:
        """Asks the loop to end and waits for it; says whether it has ended in time."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        ended = not self._thread.is_alive()
        if ended:
            self._metrics.close()
        return ended

    def _main(self) -> None:
        try:
            with ExitStack() as resources:
                self._loop = BUILDERS[self._role](self._context(resources))
                self._metrics.moments.first("built")
                self._state = "running"
                self._metrics.waits.working()
                self._metrics.set("process_up", 1)
                self._loop.run()
            self._state = "finished"
        except UserError as error:
            self._user_error = (error.field, str(error.value), error.problem, error.remedy)
            self._fail(error)
        except Exception as error:  # the thread's outermost frame: the driver reads it from `status` and decides
            known = explain_os_error(error) if isinstance(error, OSError) else None
            if known is not None:
                self._user_error = (known.field, str(known.value), known.problem, known.remedy)
            self._fail(error)
        finally:
            self._metrics.set("process_up", 0)
            self._metrics.waits.working()  # what has ended waits for nothing

    def _fail(self, error: Exception) -> None:
        _log.error("process_failed", exc_info=error)
        self._error = masked(f"{type(error).__name__}: {error}")
        self._state = "failed"

    def _context(self, resources: ExitStack) -> Context:
        manifest, config = self._folder.manifest, self._folder.config
        urls = self._folder.endpoints("tracker")
        tracker = Tracker(urls[0], config.name, password=self._password) if urls else None
        if tracker is not None:
            resources.callback(tracker.close)
        return Context(
            folder=self._folder,
            config=config,
            manifest=manifest,
            spec=ChunkSpec.from_json(manifest["chunk_spec"]),
            index=self._index,
            host=self._host,
            metrics=self._metrics,
            stop=self._stop,
            tracker=tracker,
            resources=resources,
        )


def _shard(context: Context) -> Loop:
    from orchestrator.processes.replay_shard import ShardLoop

    context.metrics.moments.first("imports")
    return ShardLoop(context)


def _learner(context: Context) -> Loop:
    from orchestrator.processes.learner import build_learner

    context.metrics.moments.first("imports")
    return build_learner(context)


def _actor(context: Context) -> Loop:
    from actors.actor import Actor
    from actors.weights import WeightSubscriber

    context.metrics.moments.first("imports")
    context.await_shards()  # the first to come may be one that drains, which has nobody to send chunks to yet
    subscriber = WeightSubscriber(
        SnapshotFolder(context.folder.snapshots),
        context.tracker,
        poll_seconds=context.config.actors.weight_poll_seconds,
        metrics=context.metrics,
    )
    return Actor(
        context.config,
        context.spec,
        folder=context.folder,
        index=context.index,
        replay=context.replay("actor"),
        subscriber=subscriber,
        metrics=context.metrics,
        stop=context.stop,
        teacher=_guide(context),
    )


def _guide(context: Context) -> "QFunction | None":
    """The run's (best) teacher, if it is to act in the student's place now and then."""
    if context.config.guide.kind == "nobody":
        return None
    from orchestrator.teachers.acting import acting
    from teacher_store.store.store import TeacherStore
    from teacher_store.teacher import load_teacher

    known = context.manifest["teacher"]
    store = TeacherStore(str(known["store"]))
    teacher = load_teacher(store.get(known["id"]), store, env=context.config.env)
    return acting(teacher, seed=seed_for(context.config.seed, "guide/actions", context.index))


def _evaluator(context: Context) -> Loop:
    import torch

    from orchestrator.processes.evaluator import Evaluator

    context.metrics.moments.first("imports")
    torch.set_num_threads(1)
    baselines = Baselines.from_manifest(context.manifest)
    return Evaluator(
        context.config,
        context.folder,
        baselines=baselines,
        metrics=context.metrics,
        stop=context.stop,
        tracker=context.tracker,
    )


BUILDERS: Final[dict[Role, Callable[[Context], Loop]]] = {
    "replay": _shard,
    "learner": _learner,
    "actor": _actor,
    "evaluator": _evaluator,
}
"""How each role is made. Imports torch and EnvPool only where the role needs them: a shard starts in a second."""
