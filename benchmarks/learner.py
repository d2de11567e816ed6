"""The learner, measured: `python -m benchmarks.learner --json [--network nature|impala] [--size 42|84] [--head q|c51]`.

QDagger's offline phase: TD loss and distillation on batches of 32 transitions with n = 3 and stacks of 4 frames. Three
things alternate, each in windows of some seconds, and every figure is the median of its windows:

    fed       the product's own learner, with its prefetching, labels, metrics and publishing, on replay shards that
              are processes; the teacher's Q values are annotations, computed once before the clock starts
    bare      its train step alone, on one batch that stays where it is
    plain     the update of CleanRL's QDagger as its page describes it, on a fixed batch: float32, contiguous, the
              teacher's own forward pass in every update, Adam, MSE and a KL at temperature 1. Always with a q head:
              there is no other. Written here from the description, not imported.

    train_samples_per_s         transitions that the fed learner trains on
    bare_train_samples_per_s    the same of the bare step; `ratio` is the one by the other
    wait_fraction               of the fed learner's wall time, waiting for a batch
    plain_samples_per_s         transitions of the plain update; `bare_over_plain` is the bare step by it
    teacher_states              states that the teacher was given, of `stored_states`, in all the fed windows together

Memory format and precision are chosen as `upcycle run` does with memory_format=auto and precision=auto. Torch has one
thread, the product's default (--threads; 0 measures): a second core goes to fetching, shards and actors. The plain
update has the same threads.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.cluster import Cluster
from benchmarks.measure import Disturbance, is_disturbed, median
from benchmarks.plain_update import plain_update
from benchmarks.workload import VIEW, chunks_of, encoded, random_play
from learner.batches import Batch
from learner.learner import Learner
from learner.measured_tuning import measure, random_batch
from learner.objective import Objective
from learner.train_state import TrainState
from learner.train_step import train_step
from learner.tuning import Tuning, candidates, choose_device
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import TableConfig
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher
from upcycle.config.run import NetworkConfig, RunConfig
from upcycle.experience.chunks import ChunkSpec
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal, configure_logging, keep_heap
from upcycle.runs.snapshots import write_snapshot

_STORED: Final = 8_000
_SHARDS: Final = 2
_WARM_UP_STEPS: Final = 10
_SWITCH_SECONDS: Final = 0.0005  # as the processes of a run have it
_START_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What all three measure: shards that hold a teacher's buffer, the teacher, the student's configuration."""

    config: RunConfig
    spec: ChunkSpec
    replay: ShardedReplay
    teacher: Teacher
    device: torch.device
    tuning: Tuning

    def network(self, *, head: bool = True) -> QNetwork:
        """A student with random weights; without `head` the same with a q head."""
        config = self.config.network if head else self.config.network.model_copy(update={"head": "q"})
        return build_network(
            config, frame_shape=self.spec.frame_shape, stack=VIEW.stack, num_actions=self.spec.num_actions
        )

    def batch(self) -> Batch:
        """A batch that stays where it is."""
        return random_batch(self.spec, VIEW, self.config.learner.batch_size, self.device)


def configuration(network: str, size: int, head: str, *, threads: int) -> RunConfig:
    """The run that is measured; what is left open is tuned by measuring."""
    return RunConfig.model_validate(
        {
            "name": "bench",
            "phases": ["offline"],
            "env": {"frame_size": size},
            "network": {"kind": network, "head": head},
            "teacher": {"id": "bench"},
            "actors": {"initial_priorities": "max"},
            "learner": {"precision": "auto", "threads": threads, "checkpoint_seconds": 3600.0},
        }
    )


@contextmanager
def prepared(config: RunConfig, scratch: Path) -> Generator[Subject]:
    """Shards filled with real frames, and a teacher that is a Nature DQN."""
    device = choose_device(config.learner.device)
    play = random_play(config.env.task, rows=_STORED, frame_size=config.env.frame_size)
    spec = play.spec()
    teacher = _teacher(config, spec, scratch, device)
    ways = candidates(config.learner, device, cores=os.cpu_count() or 1)
    seconds = (
        measure(config, spec, device, ways, batch_size=config.learner.batch_size)
        if len(ways) > 1
        else dict.fromkeys(ways, 0.0)
    )
    tuning = min(ways, key=lambda way: seconds[way])
    table = TableConfig("teacher", _STORED, annotation_width=spec.num_actions)
    with Cluster(spec, capacity=_STORED, shards=_SHARDS, others=[table]) as cluster:
        replay = cluster.open_client("auto")
        try:
            chunks = [encoded(chunk, spec, compressed=True) for chunk in chunks_of(play, spec)]
            replay.insert("teacher", chunks, writer_id="bench", first_sequence=0, timeout_seconds=60.0)
            if tuning.threads:
                torch.set_num_threads(tuning.threads)
            yield Subject(config, spec, replay, teacher, device, tuning)
        finally:
            replay.close()


def fed(subject: Subject, seconds: float, scratch: Path) -> tuple[float, float, int]:
    """Transitions a second of the product's learner, the fraction of time that it waits, and the teacher's states."""
    metrics, stop = Metrics("learner", "bench"), StopSignal()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        run = RunFolder.create(Path(folder) / "run", subject.config, teacher=None, random_score=0.0)
        learner = Learner(
            subject.config,
            subject.spec,
            folder=run,
            replay=subject.replay,
            teachers=[subject.teacher],
            metrics=metrics,
            stop=stop,
            tuning=subject.tuning,
        )
        failures = list[BaseException]()

        def work() -> None:
            try:
                learner.run()
            except BaseException as error:  # handed to the thread that waits
                failures.append(error)

        thread = threading.Thread(target=work, name="learner")
        thread.start()
        try:
            deadline = time.monotonic() + _START_SECONDS
            while learner.status()["learner_steps"] < _WARM_UP_STEPS and not failures:
                if time.monotonic() > deadline:
                    raise TimeoutError("the learner took no step")
                time.sleep(0.01)
            before, started = learner.status(), time.perf_counter()
            time.sleep(seconds)
            after, elapsed = learner.status(), time.perf_counter() - started
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]
    steps = after["learner_steps"] - before["learner_steps"]
    waited = after["wait_seconds"] - before["wait_seconds"]
    states = int(metrics.value("learner_teacher_states_total"))
    return steps * subject.config.learner.batch_size / elapsed, waited / elapsed, states


def bare(subject: Subject) -> Callable[[], None]:
    """One train step of the product on a fixed batch, the teacher's values at hand."""
    config, batch = subject.config, subject.batch()
    state = TrainState(subject.network(), config.learner, subject.device, tuning=subject.tuning)
    objective = Objective.of_phase(config, "offline", torch.ones(1, device=subject.device))
    labels = subject.teacher.values(batch.observation).unsqueeze(1)

    def step() -> None:
        train_step(state, batch, objective, multiplier=1.0, teacher_values=labels)

    return step


def per_second(step: Callable[[], None], subject: Subject, seconds: float) -> float:
    """Transitions a second of a step repeated for some time, the device's work included."""
    for _ in range(3):
        step()
    _finish(subject.device)
    started, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - started < seconds:
        step()
        steps += 1
    _finish(subject.device)
    return steps * subject.config.learner.batch_size / (time.perf_counter() - started)


def measured(config: RunConfig, scratch: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    """The values of the JSON line."""
    with prepared(config, scratch) as subject:
        online, teacher = (subject.network(head=False).to(subject.device) for _ in range(2))
        bare_step, plain_step, states = bare(subject), plain_update(online, teacher, subject.batch()), 0
        fed_rates, bare_rates, plain_rates, waits = list[float](), list[float](), list[float](), list[float]()
        for _ in range(rounds):
            bare_rates.append(per_second(bare_step, subject, seconds))
            rate, wait, labelled = fed(subject, seconds, scratch)
            fed_rates.append(rate)
            waits.append(wait)
            states += labelled
            plain_rates.append(per_second(plain_step, subject, seconds))
        stored = subject.replay.stats("teacher").num_transitions
    pairs = list(zip(fed_rates, bare_rates, plain_rates, strict=True))
    return {
        "train_samples_per_s": round(median(fed_rates), 1),
        "bare_train_samples_per_s": round(median(bare_rates), 1),
        "ratio": round(median(one / other for one, other, _ in pairs), 3),
        "wait_fraction": round(median(waits), 4),
        "device": _name_of(subject.device),
        "plain_samples_per_s": round(median(plain_rates), 1),
        "bare_over_plain": round(median(one / other for _, one, other in pairs), 2),
        "teacher_states": states,
        "stored_states": stored,
        "tuning": subject.tuning.describe(),
    }


def main() -> None:
    """Prints one JSON line, or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["nature", "impala"], default="nature")
    parser.add_argument("--size", type=int, choices=[42, 84], default=84, help="height and width of frames")
    parser.add_argument("--head", choices=["q", "c51"], default="q")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a window (default 4)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1); 0 measures")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    arguments = parser.parse_args()
    keep_heap()
    sys.setswitchinterval(_SWITCH_SECONDS)
    configure_logging("benchmark", "learner", file=None)
    config = configuration(arguments.network, arguments.size, arguments.head, threads=arguments.threads)
    disturbance = Disturbance()
    with tempfile.TemporaryDirectory(prefix="upcycle-bench-") as scratch:
        values = measured(config, Path(scratch), rounds=arguments.rounds, seconds=arguments.seconds)
    if is_disturbed(others := disturbance.cores()):
        print(f"disturbed: other processes kept {others:.2f} cores busy; repeat on a quiet machine", file=sys.stderr)
    if arguments.json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name:26} {value}")


def _teacher(config: RunConfig, spec: ChunkSpec, scratch: Path, device: torch.device) -> Teacher:
    network = NetworkConfig()
    module = build_network(network, frame_shape=spec.frame_shape, stack=VIEW.stack, num_actions=spec.num_actions)
    write_snapshot(scratch / "weights", to_numpy(module.state_dict()), {})
    store = TeacherStore(scratch / "teachers", bundled=None)
    record = store.publish(
        NewTeacher(
            name="bench",
            env=config.env,
            network=network,
            frame_shape=spec.frame_shape,
            frame_stack=VIEW.stack,
            num_actions=spec.num_actions,
            weights=scratch / "weights",
        )
    )
    return load_teacher(record, store, device)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (line.partition(":")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    return f"cpu: {model.strip()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
