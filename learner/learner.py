"""The learning loop: offline on the teacher's buffer, online with its help, plain RL, one gradient step at a time.

    replay table `teacher` --> offline --+
    replay table `online`  --> online ---+--> train_step --> weights (files) --> actors, evaluator
                               rl -------+        ^
    evaluator's scores (files) --> multiplier of what imitates, learning rate

The learner measures nothing about episodes itself; it waits for nobody but replay, and looks after everything that is
not a gradient step (frames, scores, checkpoints, status) about once a second. With several ranks this loop runs in
each of them, in step; what it orders, reads and writes for the run is the first one's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import structlog
import torch

from learner.batch_source import BatchSource
from learner.batches import Batch
from learner.drawable import HopelessWait
from learner.events import open_events
from learner.finiteness import NotFinite
from learner.keeping import Keeping
from learner.labels import TeacherLabels
from learner.loss_report import LossReport
from learner.objective import Objective, temperatures_of, weights_of
from learner.phase_batches import batches_of_phase, note_wait
from learner.ranks import Agreement, Order, Ranks, Verdict
from learner.readback import Readback
from learner.saving import Saving
from learner.scoreboard import Scoreboard
from learner.standing import Standing
from learner.train_state import TrainState
from learner.train_step import train_step
from learner.tuning import Tuning, choose_device
from replay_service.client.sharded_replay import ShardedReplay, TransitionKeys
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

_HOUSEKEEPING_SECONDS = 1.0
_REPORT_PERIOD = 100  # learner steps between two readings of the losses: reading waits for the device


class Learner:
    """Runs the phases of `config` to their end, or until `stop` is set; either way a checkpoint is written last.

    A learner that starts in a folder with a checkpoint goes on from it.

    Args:
      teachers: those of the run, in the order of its configuration; none in a run from scratch.
      ranks: this process's place among several; by default it is the only one.
      tuning: how to compute; by default the plainest way that the configuration allows.
      initial_state: of `TrainState`, to begin with in a run without a checkpoint.
      initial_torso: reads the weights that the torso has in a run without a checkpoint.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        folder: RunFolder,
        replay: ShardedReplay,
        teachers: Sequence[Teacher],
        metrics: Metrics,
        stop: StopSignal,
        tracker: Tracker | None = None,
        *,
        ranks: Ranks | None = None,
        tuning: Tuning | None = None,
        initial_state: dict[str, Any] | None = None,
        initial_torso: Callable[[], Tensors] | None = None,
    ) -> None:
        self._config, self._folder, self._replay = config, folder, replay
        self._metrics, self._stop, self._ranks = metrics, stop, ranks or Ranks.single()
        seed, is_image = seed_for(config.seed, "learner", self._ranks.rank), len(spec.frame_shape) > 1
        torch.manual_seed(seed)
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
        self._losses = LossReport(
            metrics, self._events, device, num_actions=spec.num_actions, custom=list(config.loss_terms)
        )
        scores = Scoreboard(config, folder, self._events)
        self._standing = Standing(config, scores, frame_skip=config.env.frame_skip if is_image else 1)
        saving = Saving(config, spec, folder, metrics, tracker, stop)
        self._keeping = Keeping(config, folder, self._state, self._standing, self._labels, saving, self._ranks, metrics)
        self._readback, self._hopeless = Readback(device), HopelessWait(config, spec, self._view)
        self._next_housekeeping = 0.0
        self._wait_seconds = self._phase_wait_seconds = 0.0

    def run(self) -> None:
        """Runs to the end, going back to a checkpoint where values are not finite.

        Raises: whatever replay or the disk could not recover from, or RankLost; UserError if values are not finite and
          there is no way back, or they are so again.
        """
        if not self._keeping.restore():
            self._begin()
        try:
            while not self._run_phases():
                pass
        finally:
            self._events.close()

    def status(self) -> dict[str, Any]:
        """What the driver shows and the heartbeat file keeps."""
        steps, standing = self._state.learner_steps, self._standing
        return {
            "phase": standing.phase or "done",
            **standing.counters(steps),
            "phase_learner_steps": standing.phase_learner_steps(steps),
            "phase_env_frames": standing.phase_env_frames,
            "policy_version": self._keeping.policy_version,
            "distillation_multiplier": standing.multiplier,
            "wait_seconds": self._wait_seconds,
            "labelled_states": self._labels.num_states,
            "fallbacks": self._keeping.fallbacks.count,
            "notice": self._keeping.fallbacks.notice,
        }

    def _run_phases(self) -> bool:
        """Runs all phases that are left; False if it had to go back instead."""
        try:
            self._keeping.publish()
            while (phase := self._standing.phase) is not None and self._run_phase(phase):
                pass
            self._count()  # a stop comes after the actors' tails
            self._keeping.publish()
            self._save()
        except NotFinite as problem:
            self._keeping.go_back(problem)
            self._readback.drop()
            self._losses.begin_anew()
            return False
        self._keeping.raise_problem()
        if self._standing.phase is None:
            self._metrics.set("learner_phase", len(PHASES))
        return True

    def _run_phase(self, phase: PhaseName) -> bool:
        """Runs a phase, or the rest of it; says whether it has come to its end."""
        started, waiting = time.monotonic(), None
        objective = self._enter(phase)
        made = self._standing.phase_learner_steps(self._state.learner_steps)
        with batches_of_phase(
            self._config, phase, self._replay, self._view, self._ranks, self._state.device, first_batch=made
        ) as source:
            while True:
                batch = waiting or self._next(source)
                agreement = self._ranks.agree(self._order(), None if batch is None else batch.largest_weight)
                if agreement.verdict is not Verdict.GO_ON:
                    break
                if agreement.step and batch is not None:
                    self._step(phase, objective, batch, source, agreement)
                waiting = None if agreement.step else batch
                if agreement.checkpoint:
                    self._save()
                self._housekeep()
        if agreement.verdict is Verdict.GO_BACK:
            raise self._keeping.not_finite()
        if agreement.verdict is Verdict.END_PHASE:
            self._keeping.check_all()
            self._end_phase(time.monotonic() - started)
        return agreement.verdict is Verdict.END_PHASE

    def _enter(self, phase: PhaseName) -> Objective:
        """Makes ready for a phase, or for the rest of one."""
        self._phase_wait_seconds = 0.0
        self._metrics.set("learner_phase", PHASES.index(phase))
        _log.info("phase_started", phase=phase, **self._standing.counters(self._state.learner_steps))
        weights = weights_of(self._teachers, self._folder.manifest, self._state.device)
        temperatures = temperatures_of(self._teachers, self._config.distillation.temperature, self._state.device)
        objective = Objective.of_phase(self._config, phase, weights, temperatures)
        if objective.imitates and phase == "offline":
            ranks = self._ranks
            self._labels.annotate_table(
                self._replay, "teacher", self._view, self._stop, rank=ranks.rank, ranks=ranks.size
            )
            ranks.await_all()
        return objective

    def _next(self, source: BatchSource) -> Batch | None:
        started = time.monotonic()
        batch = source.next(timeout_seconds=_HOUSEKEEPING_SECONDS)
        seconds = time.monotonic() - started
        self._wait_seconds += seconds
        self._phase_wait_seconds += seconds
        self._metrics.increment("learner_wait_seconds_total", seconds)
        if batch is None:
            note_wait(self._metrics.waits, source, self._standing.phase)
            if self._ranks.is_first:
                self._hopeless.look(self._replay, self._standing.phase, now=time.monotonic())
        else:
            self._metrics.waits.working()
        return batch

    def _order(self) -> Order:
        """What is to happen now; with several ranks the first one's word counts."""
        order = self._standing.order(self._state.learner_steps, stop=self._stop.is_set(), save_at=self._keeping.due)
        return replace(order, verdict=Verdict.GO_BACK) if self._keeping.problem else order

    def _step(
        self, phase: PhaseName, objective: Objective, batch: Batch, source: BatchSource, agreement: Agreement
    ) -> None:
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
        if steps % _REPORT_PERIOD == 0:
            self._keeping.problem = (
                self._losses.report(steps, self._standing.env_frames, agreement) or self._keeping.problem
            )
        if steps % self._config.learner.publish_period == 0:
            self._keeping.publish()

    def _write_back(self, source: BatchSource, keys: TransitionKeys, priorities: Array) -> None:
        if np.isfinite(priorities).all():
            source.write_back(keys, priorities.astype(np.float64))
        else:
            self._keeping.problem = "a TD error was not finite"

    def _end_phase(self, seconds: float) -> None:
        before = sum(int(record["teacher_states"]) for record in self._standing.records)
        self._standing.end_phase(
            self._state.learner_steps,
            seconds=round(seconds, 3),
            wait_seconds=round(self._phase_wait_seconds, 3),
            teacher_states=self._keeping.count_labelled() - before,
        )
        self._state.sync_target()
        if self._standing.phase == "rl" and self._config.rl.fresh_optimizer:
            self._state.renew_optimizer()
        self._keeping.record_phases()
        self._keeping.publish()
        self._save()

    def _housekeep(self) -> None:
        now = time.monotonic()
        if self._ranks.is_first and now >= self._next_housekeeping:
            self._next_housekeeping = now + _HOUSEKEEPING_SECONDS
            self._standing.update(self._replay)

    def _save(self) -> None:
        self._readback.flush()
        self._keeping.save()

    def _count(self) -> None:
        if self._ranks.is_first:
            self._standing.count(self._replay)

    def _begin(self) -> None:
        """The first step lies ahead: with fresh weights, a pretrained encoder, or as the teacher that is fine-tuned."""
        teacher = self._config.teacher
        if self._initial_state is not None:
            self._state.load_state_dict(self._initial_state)
            self._state.learner_steps = 0
        elif teacher is not None and teacher.reload != "nothing":
            self._state.begin_as(self._teachers[0].network)
        elif self._initial_torso is not None:
            self._state.begin_with_torso(self._initial_torso())
