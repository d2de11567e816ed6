"""The driver: starts the processes of a run, keeps them alive, shows how it goes, and ends them in order.

    shards, learner (its ranks wait for them), evaluator --> (online phase near) --> actors
    end: actors hand over their tails, learner writes its checkpoint, evaluator, shards

One thread, one second a round (`cadence`: less when the run begins or is about to end): which processes
ought to be there, which of them answer, what the supervisor makes of it. The driver passes on no experience and no
weights; it can be stopped and started again (`upcycle resume`).
"""

import time
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any, Final

import structlog

from orchestrator.baselines import Baselines
from orchestrator.processes.context import Name, Role
from orchestrator.run.announcements import Announcer
from orchestrator.run.cadence import SHARD_SECONDS, answer_seconds, import_ahead, round_seconds, stages
from orchestrator.run.disk_watch import DiskWatch
from orchestrator.run.health import awaited, called, judge, members, unit_of
from orchestrator.run.progress import Pace, Progress, View, phase_fraction
from orchestrator.run.scaling import ShardScaling
from orchestrator.run.shard_totals import samples_per_insert, spread
from orchestrator.run.standstill_watch import Watch
from orchestrator.run.supervisor import GiveUp, Supervisor
from orchestrator.run.timings import Timings
from upcycle.config.run import RunConfig
from upcycle.errors import CorruptDataError, UpcycleError
from upcycle.experience.log_trimming import count_logged
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal
from upcycle.runs.tracker import Tracker

if TYPE_CHECKING:  # Ray is imported late; see `orchestrator.cluster.local_ray`
    from orchestrator.cluster.ray_cluster import Cluster, Handle

_log = structlog.get_logger(__name__)

_START_SECONDS: Final = 180.0  # longest time from starting a process to its first answer, on a loaded machine
_NOTICE_SECONDS: Final = 5.0  # a shard serves on for so long after its endpoint is gone: clients look twice a second
_ACTORS_DUE: Final = 0.9  # of the offline phase; actors import for some seconds, then wait for the online phase


class RunFailed(UpcycleError):
    """A process has died more often than the limit allows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stretch of a run ended.

    Attributes:
      finished: all phases are done; False if it was stopped before.
      samples_per_insert: of this stretch; None if nothing was inserted.
    """

    finished: bool
    env_frames: int
    learner_steps: int
    samples_per_insert: float | None


class Driver:
    """Drives one stretch of a run. Not reusable.

    Args:
      tracker: of the run; an outage is counted and survived.
      metrics: of the role `driver`.
      stop: ends the stretch with a checkpoint.
      timings: where the processes' moments and the steps of the end are noted.
    """

    def __init__(
        self,
        folder: RunFolder,
        cluster: "Cluster",
        *,
        tracker: Tracker,
        metrics: Metrics,
        view: View,
        stop: StopSignal,
        timings: Timings | None = None,
    ) -> None:
        self._folder, self._cluster, self._tracker = folder, cluster, tracker
        self._metrics, self._view, self._stop = metrics, view, stop
        self._timings = timings or Timings()
        self._config: RunConfig = folder.config
        self._baselines = Baselines.from_manifest(folder.manifest)
        self._handles: dict[Name, Handle] = {}
        self._scaling = ShardScaling(folder, self._config)
        self._leaving: list[tuple[float, Handle]] = []  # shards that have left, and when they are to be ended
        self._departed: list[dict[str, Any]] = []  # newest answers of shards that have left
        self._supervisor = Supervisor[Name](
            max_restarts=self._config.cluster.max_restarts,
            window_seconds=self._config.cluster.restart_window_seconds,
            silence_seconds=self._config.cluster.heartbeat_timeout_seconds,
            start_seconds=_START_SECONDS,
        )
        self._pace, self._watch = Pace(), Watch()
        self._disk = DiskWatch(folder.path, self._config.cluster, metrics)
        self._restarts, self._finished = 0, False
        self._seconds_left: float | None = None  # of the phase
        self._learner: dict[str, Any] = {}  # newest answer of the learner, kept over its restarts
        self._announcer = Announcer(
            folder, tracker, metrics, view, ttl_seconds=self._config.cluster.heartbeat_timeout_seconds
        )

    def run(self) -> Outcome:
        """Runs until the learner has finished or `stop` is set; the processes are gone when it returns.

        Raises: UserError that a process met, or of a disk that is nearly full; RunFailed if one keeps dying. The
          processes are ended in either case.
        """
        try:
            began = time.monotonic()
            while not self._finished and not self._stop.is_set():
                started = time.monotonic()
                self._round(answer_seconds(started - began))
                rest = round_seconds(started - began, self._seconds_left) - (time.monotonic() - started)
                self._stop.wait(max(0.0, 0.0 if self._finished else rest))
                if self._folder.stop_requested():
                    self._stop.set()
        finally:
            self._end()
        self._count_tails()
        return Outcome(
            finished=self._finished,
            env_frames=int(self._learner.get("env_frames", 0)),
            learner_steps=int(self._learner.get("learner_steps", 0)),
            samples_per_insert=self._samples_per_insert(),
        )

    def _round(self, answer_seconds: float) -> None:
        if self._disk.look(now=time.monotonic()):
            self._view.say(f"warning: {self._disk.warning}")
        self._scale()
        for name in self._wanted():
            if name not in self._handles:
                self._start(name)
        answers = self._cluster.poll(list(self._handles.values()), answer_seconds)
        now = time.monotonic()
        findings = judge(self._handles, answers)
        for name, handle in self._handles.items():
            self._note_moments(handle)
            handle.died = answers.get(handle.name)
            if handle.waiting is not None:
                self._supervisor.waits(unit_of(name), now=now)
        self._finished = findings.finished
        self._learner = self._handles["learner", 0].detail or self._learner
        for unit in findings.heard:
            self._supervisor.heard(unit, now=now)
        for unit, reason in findings.dead.items():
            _log.warning("process_died", process=called(unit, self._handles), reason=reason)
            self._supervisor.died(unit, reason, now=now)
        for decision in self._supervisor.decide(now=now):
            if isinstance(decision, GiveUp):
                names = members(decision.process, self._handles)
                raise RunFailed(
                    f"{called(decision.process, self._handles)} died {decision.deaths} times: {decision.reason}; "
                    f"its log is {', '.join(str(self._folder.logs / f'{role}-{i}.jsonl') for role, i in names)}"
                )
            self._restart(decision.process, decision.reason)
        self._publish()

    def _wanted(self) -> list[Name]:
        """The processes that ought to run now."""
        config = self._config
        wanted: list[Name] = [("replay", index) for index in self._scaling.shards.all]
        wanted.extend([*_all("learner", config.learner.ranks), ("evaluator", 0)])
        phase = self._learner.get("phase", config.phases[0])
        if phase != "offline" or phase_fraction(config, self._learner) > _ACTORS_DUE:
            wanted.extend(_all("actor", config.actors.num_actors))
        return wanted

    def _scale(self) -> None:
        """Does what has been asked for; lets drained shards leave, and ends them once every client has noticed."""
        line = self._scaling.take_request(now=time.time())
        if line is not None:
            self._view.say(line)
        now = time.monotonic()
        for index in self._scaling.take_leave(self._shard_details(), now=time.time()):
            handle = self._handles.pop(("replay", index))
            self._supervisor.forget(("replay", index))
            self._departed.append(handle.detail)
            self._leaving.append((now + _NOTICE_SECONDS, handle))
            self._view.say(f"replay-{index} has left")
        due = [handle for end_at, handle in self._leaving if end_at <= now]
        self._leaving = [(end_at, handle) for end_at, handle in self._leaving if end_at > now]
        if due:
            self._end_all(due, SHARD_SECONDS)

    def _start(self, name: Name) -> None:
        role, index = name
        self._timings.first_time(f"{role}-{index}", "asked")
        self._handles[name] = self._cluster.start(role, index, self._folder.path)
        self._supervisor.started(unit_of(name), now=time.monotonic())
        _log.info("process_started", process=f"{role}-{index}")

    def _restart(self, unit: Name, reason: str) -> None:
        role, _ = unit
        names = members(unit, self._handles)
        for name in names:
            self._cluster.kill(self._handles[name])
        if role == "learner":  # its ranks must not look for one another where the first of them was before
            self._folder.withdraw(*unit)
        self._restarts += 1
        self._metrics.increment("supervisor_restarts_total", target=role)
        self._view.say(f"{called(unit, names)} died ({reason}); starting it again")
        for name in names:
            self._start(name)

    def _publish(self) -> None:
        """Shows the state to people, to files, and to the tracker."""
        progress = self._progress()
        self._view.show(progress)
        status = progress.to_json() | {"samples_per_insert": self._samples_per_insert()}
        if (apart := spread(self._shard_details().values())) is not None:
            self._metrics.set("replay_spread_ratio", apart.ratio)
            status["replay"] = apart.to_json()
        self._announcer.tell(status, self._handles)

    def _progress(self) -> Progress:
        learner, config = self._learner, self._config
        phase = str(learner.get("phase", "starting"))
        fraction = phase_fraction(config, learner)
        frames, steps = int(learner.get("env_frames", 0)), int(learner.get("learner_steps", 0))
        left, frame_rate, step_rate = self._pace.update(phase, fraction, frames, steps, now=time.monotonic())
        self._seconds_left = left
        evaluator = self._handles.get(("evaluator", 0))
        score: dict[str, Any] = (evaluator.detail.get("score") if evaluator else None) or {}
        return Progress(
            phase=phase,
            fraction=fraction,
            seconds_left=left,
            env_frames=frames,
            learner_steps=steps,
            env_frames_per_s=frame_rate,
            learner_steps_per_s=step_rate,
            mean_return=score.get("mean_return"),
            normalised=score.get("normalised"),
            teacher_return=self._baselines.teacher,
            multiplier=float(learner.get("distillation_multiplier", 0.0)),
            restarts=self._restarts,
            standstill=self._watch.look(self._handles.values(), now=time.time()),
            warning=self._disk.warning,
            waiting_for=awaited(self._handles.values(), is_up=phase != "starting"),
        )

    def _shard_details(self) -> dict[int, Any]:
        return {index: handle.detail for (role, index), handle in self._handles.items() if role == "replay"}

    def _samples_per_insert(self) -> float | None:
        return samples_per_insert([*self._shard_details().values(), *self._departed])

    def _end(self) -> None:
        importing = import_ahead("orchestrator.reports.run_report") if self._finished else None
        for roles, seconds in stages(finished=self._finished):
            handles = [handle for role in roles for (other, _), handle in self._handles.items() if other == role]
            if "replay" in roles:
                handles += [handle for _, handle in self._leaving]
            with self._timings.step(f"end {', '.join(roles)}"):
                self._end_all(handles, seconds)
            for handle in handles:
                self._note_moments(handle)
        if importing is not None:
            importing.join()
        learner = self._handles.get(("learner", 0))
        if learner is not None and learner.detail:
            self._learner = learner.detail

    def _count_tails(self) -> None:
        """Counts what the logs hold, now that nobody adds to them: the actors' last steps come after the learner's."""
        if not self._config.replay.log_experience:
            return
        try:
            logged = count_logged(self._folder.experience)
        except CorruptDataError as error:  # what the learner has counted holds
            _log.error("frames_not_counted", error=str(error))
            return
        if logged:
            skip = self._config.env.frame_skip if len(self._folder.manifest["chunk_spec"]["frame_shape"]) > 1 else 1
            self._learner = {**self._learner, "env_frames": skip * sum(logged.values())}
            self._publish()

    def _note_moments(self, handle: "Handle") -> None:
        if handle.status:
            self._timings.first_time(handle.name, "first_answer")
            self._timings.note(handle.name, handle.status.get("moments", {}))

    def _end_all(self, handles: "list[Handle]", seconds: float) -> None:
        for name in self._cluster.stop(handles, seconds):
            _log.log(INFO if self._finished else WARNING, "process_killed", process=name, seconds=seconds)


def _all(role: Role, count: int) -> list[Name]:
    return [(role, index) for index in range(count)]
