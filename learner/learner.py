"""The learning loop: offline QDagger, online QDagger, plain RL, one gradient step at a time.

    replay table `teacher` --> offline --+
    replay table `online`  --> online ---+--> train_step --> weights (files) --> actors, evaluator
                               rl -------+        ^
    evaluator's scores (files) --> distillation multiplier, learning rate

The learner measures nothing about episodes itself; it waits for nobody but replay, and looks after everything that is
not a gradient step (frames, scores, checkpoints, status) about once a second.
"""

import time
from dataclasses import asdict
from typing import Any

import structlog
import torch
from tensorboardX import SummaryWriter

from learner.batch_source import Batch, BatchSource
from learner.checkpoint import CheckpointFolder
from learner.distillation import Distillation, learning_rate
from learner.frames import FrameCounter
from learner.loss_report import LossReport
from learner.phases import PhaseMachine, Progress
from learner.publisher import Publisher
from learner.train_state import TrainState, choose_device
from learner.train_step import train_step
from replay_service.sharding import ReplayTimeout, ShardedReplay
from teacher_store.teacher import Teacher
from upcycle.chunks import ChunkSpec
from upcycle.config import PHASES, PhaseName, RunConfig
from upcycle.metrics import Metrics
from upcycle.networks import build_network
from upcycle.run_folder import RunFolder
from upcycle.runtime import StopSignal, seed_for
from upcycle.snapshots import SnapshotFolder
from upcycle.torch_io import to_numpy
from upcycle.tracker import Tracker, TrackerUnavailable
from upcycle.windows import View

_log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 1.0
_REPORT_PERIOD = 100  # learner steps between two readings of the losses: reading waits for the device


class Learner:
    """Runs the phases of `config` to their end, or until `stop` is set; either way a checkpoint is written last.

    A learner that starts in a folder with a checkpoint goes on from it.
    """

    def __init__(
        self,
        config: RunConfig,
        spec: ChunkSpec,
        folder: RunFolder,
        replay: ShardedReplay,
        teacher: Teacher | None,
        metrics: Metrics,
        stop: StopSignal,
        tracker: Tracker | None = None,
    ) -> None:
        self._config, self._spec, self._folder = config, spec, folder
        self._replay, self._teacher, self._metrics, self._stop, self._tracker = replay, teacher, metrics, stop, tracker
        torch.manual_seed(seed_for(config.seed, "learner", 0))
        if config.learner.threads:
            torch.set_num_threads(config.learner.threads)
        self._stack = config.env.frame_stack if len(spec.frame_shape) > 1 else 1
        network = build_network(
            config.network, frame_shape=spec.frame_shape, stack=self._stack, num_actions=spec.num_actions
        )
        self._state = TrainState(network, config.learner, choose_device(config.learner.device))
        self._phases = PhaseMachine(config.phases)
        self._distillation = Distillation()
        self._frames = FrameCounter(frame_skip=config.env.frame_skip if len(spec.frame_shape) > 1 else 1)
        self._publisher = Publisher(SnapshotFolder(folder.snapshots), tracker, metrics)
        self._checkpoints = CheckpointFolder(folder.checkpoints)
        self._best_return: float | None = None
        self._seen_scores = 0
        self._phase_records: list[dict[str, Any]] = []
        self._next_housekeeping = self._next_checkpoint = 0.0
        self._wait_seconds = self._phase_wait_seconds = 0.0
        self._events = SummaryWriter(logdir=str(folder.events), flush_secs=10)
        self._losses = LossReport(metrics, self._events, self._state.device)

    def run(self) -> None:
        """Runs to the end. Raises whatever replay or the disk could not recover from."""
        self._restore()
        self._next_checkpoint = time.monotonic() + self._config.learner.checkpoint_seconds
        try:
            self._publish()
            while (phase := self._phases.current) is not None and not self._stop.is_set():
                self._run_phase(phase)
            self._publish()
            self._save()
            if self._phases.current is None:
                self._metrics.set("learner_phase", len(PHASES))
        finally:
            self._events.close()

    def status(self) -> dict[str, Any]:
        """What the driver shows and the heartbeat file keeps."""
        return {
            "phase": self._phases.current or "done",
            "learner_steps": self._state.learner_steps,
            "env_frames": self._frames.total,
            "phase_learner_steps": self._state.learner_steps - self._phases.start_learner_steps,
            "phase_env_frames": self._frames.total - self._phases.start_env_frames,
            "policy_version": self._publisher.policy_version,
            "distillation_multiplier": self._distillation_multiplier(),
            "wait_seconds": self._wait_seconds,
        }

    def _run_phase(self, phase: PhaseName) -> None:
        config, started = self._config.learner, time.monotonic()
        self._phase_wait_seconds = 0.0
        self._state.sync_target()
        self._metrics.set("learner_phase", PHASES.index(phase))
        _log.info("phase_started", phase=phase, **self._counters())
        view = View(
            n_step=config.n_step,
            stack=self._stack,
            gamma=config.gamma,
            clip_rewards=self._config.env.clip_rewards,
            stack_fill=self._config.env.stack_fill,
        )
        with BatchSource(
            self._replay,
            "teacher" if phase == "offline" else "online",
            batch_size=config.batch_size,
            view=view,
            importance_sampling_exponent=self._config.replay.importance_sampling_exponent,
            prefetch_batches=config.prefetch_batches,
            batches_per_request=config.batches_per_request,
            requests_in_flight=config.requests_in_flight,
            device=self._state.device,
        ) as source:
            while not self._stop.is_set() and not self._phases.is_over(self._config, self._progress()):
                waited = time.monotonic()
                batch = source.next(timeout_seconds=_HOUSEKEEPING_SECONDS)
                self._note_wait(time.monotonic() - waited)
                if batch is not None:
                    self._step(phase, batch, source)
                self._housekeep()
        if not self._stop.is_set():
            self._end_phase(phase, time.monotonic() - started)

    def _step(self, phase: PhaseName, batch: Batch, source: BatchSource) -> None:
        started = time.monotonic()
        multiplier, rate = self._distillation_multiplier(), self._learning_rate()
        self._state.set_learning_rate(rate)
        result = train_step(
            self._state,
            batch,
            learner=self._config.learner,
            distillation=self._config.distillation,
            multiplier=multiplier,
            teacher=self._teacher.q_values if self._teacher is not None else None,
        )
        if phase != "offline" and self._config.replay.sampler == "proportional":
            source.write_back(batch.keys, result.td_errors.cpu().numpy().astype("float64") + 1e-6)
        self._metrics.increment("learner_steps_total")
        self._metrics.observe("learner_step_seconds", time.monotonic() - started)
        self._losses.add(result)
        if self._state.learner_steps % _REPORT_PERIOD == 0:
            self._losses.report(
                self._state.learner_steps, env_frames=self._frames.total, multiplier=multiplier, learning_rate=rate
            )
        if self._state.learner_steps % self._config.learner.publish_period == 0:
            self._publish()

    def _end_phase(self, phase: PhaseName, seconds: float) -> None:
        before = (self._phases.start_learner_steps, self._phases.start_env_frames)
        self._phases.advance(self._progress())
        self._phase_records.append(
            {
                "phase": phase,
                "learner_steps": self._phases.start_learner_steps - before[0],
                "env_frames": self._phases.start_env_frames - before[1],
                "seconds": round(seconds, 3),
                "wait_seconds": round(self._phase_wait_seconds, 3),
                "distillation_multiplier": self._distillation.value,
            }
        )
        _log.info("phase_ended", **self._phase_records[-1])
        self._folder.write_phases(self._phase_records)
        self._publish()
        self._save()

    def _distillation_multiplier(self) -> float:
        phase = self._phases.current
        return 1.0 if phase == "offline" else self._distillation.value if phase == "online" else 0.0

    def _learning_rate(self) -> float:
        """Tied to the multiplier online, as in the paper; a run from scratch keeps its one rate."""
        initial, final = self._config.learner.learning_rate, self._config.learner.final_learning_rate
        if final is None or self._phases.current == "offline" or self._teacher is None:
            return initial
        return learning_rate(min(self._distillation_multiplier(), 1.0), initial=initial, final=final)

    def _progress(self) -> Progress:
        return Progress(
            learner_steps=self._state.learner_steps,
            env_frames=self._frames.total,
            weaned=self._distillation.weaned and self._config.distillation.latch,
            best_return=self._best_return,
        )

    def _note_wait(self, seconds: float) -> None:
        self._wait_seconds += seconds
        self._phase_wait_seconds += seconds
        self._metrics.increment("learner_wait_seconds_total", seconds)

    def _housekeep(self) -> None:
        now = time.monotonic()
        if now < self._next_housekeeping:
            return
        self._next_housekeeping = now + _HOUSEKEEPING_SECONDS
        self._count_frames()
        self._apply_scores()
        if now >= self._next_checkpoint:
            self._save()

    def _count_frames(self) -> None:
        try:
            shards = self._replay.stats("online").shards
        except ReplayTimeout:  # no shard answers: the supervisor restarts them, the count catches up
            return
        self._frames.observe({shard: stats.num_inserted for shard, stats in shards.items()})

    def _apply_scores(self) -> None:
        scores = self._folder.scores()
        for record in scores[self._seen_scores :]:
            mean_return, version = float(record["mean_return"]), int(record["policy_version"])
            self._events.add_scalar("evaluation/mean_return", mean_return, int(record["env_frames"]))
            if record["phase"] == "rl":
                self._best_return = max(mean_return, self._best_return or float("-inf"))
            if record["phase"] == "online" and record["normalised"] is not None and self._phases.current == "online":
                options = self._config.distillation
                if self._distillation.observe(
                    float(record["normalised"]),
                    version,
                    latch=options.latch,
                    clip=options.clip_multiplier,
                    smoothing=options.score_smoothing,
                ):
                    _log.info("multiplier", value=self._distillation.value, policy_version=version)
        self._seen_scores = len(scores)

    def _publish(self) -> None:
        metadata = self._counters() | {
            "phase": self._phases.current or "done",
            "epsilon_done": int(self._phases.had_offline_phase),
            "network": self._config.network.model_dump_json(),
            "env": self._config.env.model_dump_json(),
            "num_actions": self._spec.num_actions,
        }
        tensors = to_numpy(self._state.policy_network.state_dict())
        self._publisher.publish(tensors, {name: str(value) for name, value in metadata.items()})

    def _counters(self) -> dict[str, int]:
        return {"learner_steps": self._state.learner_steps, "env_frames": self._frames.total}

    def _save(self) -> None:
        started = time.monotonic()
        state = {
            "train_state": self._state.state_dict(),
            "phases": self._phases.state_dict(),
            "phase_records": self._phase_records,
            "distillation": asdict(self._distillation),
            "frames": {"total": self._frames.total, "counters": self._frames.counters},
            "seen_scores": self._seen_scores,
            "best_return": self._best_return,
            "torch_rng": torch.get_rng_state(),
        }
        ref = self._checkpoints.save(state, learner_steps=self._state.learner_steps, counters=self._counters())
        self._next_checkpoint = time.monotonic() + self._config.learner.checkpoint_seconds
        self._metrics.observe("learner_checkpoint_seconds", time.monotonic() - started)
        if self._tracker is not None:
            try:
                self._tracker.publish_checkpoint({"path": ref.path.name, "sha256": ref.sha256, **ref.counters})
            except TrackerUnavailable:
                self._metrics.increment("tracker_unavailable_total")

    def _restore(self) -> None:
        found = self._checkpoints.load_newest()
        if found is None:
            return
        ref, state = found
        self._state.load_state_dict(state["train_state"])
        self._phases = PhaseMachine.from_state(state["phases"], self._config.phases)
        self._phase_records = state["phase_records"]
        self._distillation = Distillation(**state["distillation"])
        self._frames.total, self._frames.counters = state["frames"]["total"], state["frames"]["counters"]
        self._seen_scores, self._best_return = state["seen_scores"], state["best_return"]
        torch.set_rng_state(state["torch_rng"])
        _log.info("resumed", checkpoint=ref.path.name, **ref.counters)
