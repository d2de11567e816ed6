"""The learning loop: offline on the teacher's buffer, online with the teacher's help, then plain RL.

    replay table `teacher` --> offline --+
    replay table `online`  --> online ---+--> train_step --> weights (files) --> actors, evaluator
                               rl -------+        ^
    evaluator's scores (files) --> multiplier of the imitation terms, learning rate

The loop waits only for replay; everything that is not a gradient step happens about once a second. With several ranks
each runs this loop in lockstep; rank 0 gives the orders and reads and writes the run's files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
import torch

from learner.artifacts import ArtifactWriter
from learner.batch_source import BatchSource
from learner.batches import Batch
from learner.events import open_events
from learner.finiteness import NotFinite
from learner.labels import TeacherLabels
from learner.loss_report import LossReport
from learner.objective import Objective, temperatures_of, weights_of
from learner.persistence import Persistence
from learner.phase_batches import batches_of_phase, note_wait
from learner.ranks import Agreement, Order, Ranks, Verdict
from learner.readback import Readback
from learner.run_state import RunState
from learner.scoreboard import Scoreboard
from learner.starvation import StarvationCheck
from learner.train_state import TrainState
from learner.train_step import train_step
from learner.tuning import Tuning, choose_device
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import TransitionKeys
from teacher_store.teacher import Teacher
from upcycle.config.run import PHASES, PhaseName, RunConfig
from upcycle.experience.chunks import Array, ChunkSpec
from upcycle.experience.windows import View
from upcycle.networks.q_network import build_network
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, seed_for
from upcycle.runs.snapshots import Tensors
from upcycle.runs.tracker import Tracker

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS: Final = 1.0
REPORT_PERIOD: Final = 100  # learner steps between two readings of the losses: reading waits for the device


class Learner:
    """Runs the phases of `config` to their end, or until `stop` is set; either way it writes a last checkpoint.

    In a folder with a checkpoint it resumes from there.

    Args:
      teachers: in the order of the configuration; none in a run from scratch.
      ranks: this process's place among several; by default it is the only one.
      tuning: how to compute; by default the plainest way that the configuration allows.
      initial_state: of `TrainState`, for a run without a checkpoint.
      initial_torso: reads the torso's weights, for a run without a checkpoint.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        *,
        folder: RunFolder,
        replay: ShardedReplay,
        teachers: Sequence[Teacher],
        metrics: Metrics,
        stop: StopSignal,
        tracker: Tracker | None = None,
        ranks: Ranks | None = None,
        tuning: Tuning | None = None,
        initial_state: dict[str, Any] | None = None,
        initial_torso: Callable[[], Tensors] | None = None,
    ) -> None:
        self._config, self._folder, self._replay = config, folder, replay
        self._metrics, self._stop, self._ranks = metrics, stop, ranks or Ranks.single()
        torch.manual_seed(seed_for(config.seed, "learner", self._ranks.rank))
        if threads := tuning.threads if tuning is not None else config.learner.threads:
            torch.set_num_threads(threads)
        device = choose_device(config.learner.device)
        self._view = View.of_run(config, spec)
        network = build_network(
            config.network, frame_shape=spec.frame_shape, stack=self._view.stack, num_actions=spec.num_actions
        )
        frozen = config.encoder.frozen
        self._state = TrainState(
            network, config.learner, device, tuning=tuning, wrap=self._ranks.wrap, frozen_torso=frozen
        )
        self._teachers, self._initial_state, self._initial_torso = list(teachers), initial_state, initial_torso
        self._labels = TeacherLabels(teachers, device, metrics)
        self._events = open_events(folder.events, write=self._ranks.is_first)
        custom, is_image = list(config.loss_terms), len(spec.frame_shape) > 1
        self._losses = LossReport(metrics, self._events, device, num_actions=spec.num_actions, custom=custom)
        scores = Scoreboard(config, folder, self._events)
        self._run_state = RunState(config, scores, frame_skip=config.env.frame_skip if is_image else 1)
        self._persistence = Persistence(
            config,
            folder,
            train_state=self._state,
            run_state=self._run_state,
            labels=self._labels,
            artifacts=ArtifactWriter(config, spec, folder=folder, metrics=metrics, tracker=tracker, stop=stop),
            ranks=self._ranks,
            metrics=metrics,
        )
        self._batches = partial(
            batches_of_phase, config, replay=replay, view=self._view, ranks=self._ranks, device=device
        )
        self._readback, self._starvation = Readback(device), StarvationCheck(config, spec, self._view)
        self._next_housekeeping = self._wait_seconds = self._phase_wait_seconds = 0.0

    def run(self) -> None:
        """Runs to the end, rolling back to a checkpoint where values are not finite.

        Raises: what replay or the disk could not recover from; RankLost; UserError if values are not finite and there
          is no checkpoint, or they are so again after a roll-back.
        """
        if not self._persistence.restore():
            self._initialise()
        try:
            while not self._run_phases():
                pass
        finally:
            self._events.close()

    def _run_phases(self) -> bool:
        """Runs the remaining phases; returns False if it rolled back instead."""
        try:
            self._persistence.publish()
            while (phase := self._run_state.phase) is not None and self._run_phase(phase):
                pass
            if self._ranks.is_first:
                self._run_state.count_frames(self._replay)  # actors send their last chunks when they stop
            self._persistence.publish()
            self._save()
        except NotFinite as problem:
            self._persistence.roll_back(problem)
            self._readback.clear()
            self._losses.reset()
            return False
        self._persistence.raise_disk_error()
        if self._run_state.phase is None:
            self._metrics.set("learner_phase", len(PHASES))
        return True

    def _run_phase(self, phase: PhaseName) -> bool:
        """Runs a phase, or the rest of it; returns whether it came to its end."""
        started, batch = time.monotonic(), None
        objective = self._begin_phase(phase)
        made = self._run_state.phase_learner_steps(self._state.learner_steps)
        with self._batches(phase, first_batch=made) as source:
            while True:
                batch = batch or self._next_batch(source)
                agreement = self._ranks.agree(self._order(), None if batch is None else batch.largest_weight)
                if agreement.verdict is not Verdict.CONTINUE:
                    break
                if agreement.step and batch is not None:
                    self._step(phase, objective, batch=batch, source=source, agreement=agreement)
                    batch = None
                if agreement.checkpoint:
                    self._save()
                self._housekeep()
        if agreement.verdict is Verdict.ROLL_BACK:
            raise self._persistence.not_finite()
        if agreement.verdict is Verdict.END_PHASE:
            self._persistence.check_train_state()
            self._end_phase(time.monotonic() - started)
        return agreement.verdict is Verdict.END_PHASE

    def _step(
        self, phase: PhaseName, objective: Objective, *, batch: Batch, source: BatchSource, agreement: Agreement
    ) -> None:
        """One gradient step: label the batch, train on it, send priorities back, report, publish."""
        started = time.monotonic()
        self._state.set_learning_rate(agreement.learning_rate)
        labels = self._labels.of(batch, source) if agreement.multiplier > 0 and objective.imitates else None
        if batch.largest_weight != agreement.largest_weight:
            batch.importance_weights.mul_(batch.largest_weight / agreement.largest_weight)
        with self._ranks.averaging():
            result = train_step(self._state, batch, objective, multiplier=agreement.multiplier, teacher_values=labels)
        if phase != "offline" and self._config.replay.sampler == "proportional":
            keys = batch.keys
            self._readback.push(result.priorities, lambda values: self._write_back(source, keys, values))
        self._metrics.increment("learner_steps_total")
        self._metrics.moments.first("first_step")
        self._metrics.moments.last("last_step")
        self._metrics.observe("learner_step_seconds", time.monotonic() - started)
        self._losses.add(result)
        steps = self._state.learner_steps
        if steps % REPORT_PERIOD == 0:
            problem = self._losses.report(steps, self._run_state.env_frames, agreement)
            self._persistence.problem = problem or self._persistence.problem
        if steps % self._config.learner.publish_period == 0:
            self._persistence.publish()

    def _order(self) -> Order:
        """What this rank wants to happen next."""
        due = self._persistence.checkpoint_due
        order = self._run_state.order(self._state.learner_steps, stop=self._stop.is_set(), checkpoint_due=due)
        return replace(order, verdict=Verdict.ROLL_BACK) if self._persistence.problem else order

    def _initialise(self) -> None:
        """Sets the weights before the first step: fresh, with a pretrained encoder, or those of a teacher."""
        teacher = self._config.teacher
        if self._initial_state is not None:
            self._state.load_state_dict(self._initial_state)
            self._state.learner_steps = 0
        elif teacher is not None and teacher.reload != "nothing":
            self._state.load_network(self._teachers[0].network)
        elif self._initial_torso is not None:
            self._state.load_torso(self._initial_torso())

    def _begin_phase(self, phase: PhaseName) -> Objective:
        """The objective of a phase, once its teachers have labelled what they can label in advance."""
        self._phase_wait_seconds = 0.0
        self._metrics.set("learner_phase", PHASES.index(phase))
        _log.info("phase_started", phase=phase, **self._run_state.counters(self._state.learner_steps))
        weights = weights_of(self._teachers, self._folder.manifest, self._state.device)
        temperatures = temperatures_of(self._teachers, self._config.distillation.temperature, self._state.device)
        objective = Objective.of_phase(self._config, phase, weights, temperatures)
        if objective.imitates and phase == "offline":
            part = {"rank": self._ranks.rank, "ranks": self._ranks.size}
            self._labels.annotate_table(self._replay, "teacher", view=self._view, stop=self._stop, **part)
            self._ranks.barrier()
        return objective

    def _end_phase(self, seconds: float) -> None:
        before = sum(int(record["teacher_states"]) for record in self._run_state.records)
        self._run_state.end_phase(
            self._state.learner_steps,
            seconds=round(seconds, 3),
            wait_seconds=round(self._phase_wait_seconds, 3),
            teacher_states=self._persistence.count_labelled() - before,
        )
        self._state.sync_target()
        if self._run_state.phase == "rl" and self._config.rl.fresh_optimizer:
            self._state.reset_optimizer()
        self._persistence.record_phases()
        self._persistence.publish()
        self._save()

    def _next_batch(self, source: BatchSource) -> Batch | None:
        """The next batch; None if there was none for a second, after noting why."""
        started = time.monotonic()
        batch = source.next(timeout_seconds=_HOUSEKEEPING_SECONDS)
        seconds = time.monotonic() - started
        self._wait_seconds += seconds
        self._phase_wait_seconds += seconds
        self._metrics.increment("learner_wait_seconds_total", seconds)
        if batch is None:
            note_wait(self._metrics.waits, source, self._run_state.phase)
            if self._ranks.is_first:
                self._starvation.check(self._replay, self._run_state.phase, now=time.monotonic())
        else:
            self._metrics.waits.working()
        return batch

    def _write_back(self, source: BatchSource, keys: TransitionKeys, priorities: Array) -> None:
        if np.isfinite(priorities).all():
            source.write_back(keys, priorities.astype(np.float64))
        else:
            self._persistence.problem = "a TD error was not finite"

    def _save(self) -> None:
        self._readback.flush()
        self._persistence.save()

    def _housekeep(self) -> None:
        now = time.monotonic()
        if self._ranks.is_first and now >= self._next_housekeeping:
            self._next_housekeeping = now + _HOUSEKEEPING_SECONDS
            self._run_state.update(self._replay)

    def status(self) -> dict[str, Any]:
        """For the driver and the heartbeat file."""
        steps, run_state = self._state.learner_steps, self._run_state
        return {
            "phase": run_state.phase or "done",
            **run_state.counters(steps),
            "phase_learner_steps": run_state.phase_learner_steps(steps),
            "phase_env_frames": run_state.phase_env_frames,
            "policy_version": self._persistence.policy_version,
            "distillation_multiplier": run_state.multiplier,
            "wait_seconds": self._wait_seconds,
            "labelled_states": self._labels.num_states,
            "fallbacks": self._persistence.fallbacks.count,
            "notice": self._persistence.fallbacks.notice,
        }
