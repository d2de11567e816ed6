"""The paper's workflow in small, from nothing to its figure: `python -m benchmarks.workflow_in_small`.

Plays three generations of Catch with the product's own commands, one run after another on one local Ray: `nature_dqn`
from scratch, stopped while it still misses balls; `finetune_adam` from it; `impala_rainbow` from that, beside
`impala_rainbow_scratch`; each once for every seed. The first seed's run of a generation teaches all runs of the next,
so that the seeds of a design share their teacher. `upcycle report` over all runs then draws the figure.

Runs and teachers are kept in a folder of their own (`--folder`). With `--output` the figure and its numbers are copied
to `workflow.png` and `workflow.json` there.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from orchestrator.cluster.local_ray import private_folder
from upcycle.streams import leavable_streams

_RUN_SECONDS: Final = 900.0
_OBJECT_STORE_BYTES: Final = 100 << 20
_SIZES: Final = (
    "env.task=Catch-v0",
    "network.kind=mlp",
    "replay.num_shards=1",
    "replay.capacity_steps=20000",
    "replay.chunk_steps=16",
    "replay.min_size_to_sample=400",
    "replay.error_buffer_steps=600",
    "replay.samples_per_insert=32.0",
    "actors.num_actors=1",
    "actors.lanes=8",
    "actors.epsilon_decay_frames=3000",
    "actors.weight_poll_seconds=0.1",
    "learner.target_update_period=200",
    "learner.publish_period=50",
    "learner.memory_format=contiguous",
    "evaluation.episodes=100",
    "evaluation.final_episodes=300",
    "evaluation.lanes=20",
    "evaluation.period_seconds=0.5",
    "evaluation.period_frames=100",
)
"""What makes the presets small. A batch of 32 for every frame: one learner step a frame."""
_Q: Final = ("network.hidden=64",)
_C51: Final = ("network.hidden=128", "network.atoms=21", "network.support_limit=1.5")
"""The third generation is another agent: wider, and with a categorical head over Catch's returns, from -1 to 1."""


@dataclass(frozen=True, slots=True)
class Design:
    """A preset and what makes it small; `teacher` is the name of a teacher in the store."""

    preset: str
    name: str
    overrides: tuple[str, ...]
    teacher: str | None = None


_TEACHER: Final = Design(
    "nature_dqn", "dqn", (*_Q, "rl.env_frames=6000", "actors.epsilon_warmup_frames=400", "learner.learning_rate=5e-5")
)
_FINE_TUNED: Final = Design(
    "finetune_adam", "finetuned", (*_Q, "rl.env_frames=6000", "learner.learning_rate=2e-5"), "dqn"
)
_STUDENT: Final = Design(
    "impala_rainbow",
    "student",
    (
        *_C51,
        "offline.learner_steps=3000",
        "online.env_frames=3000",
        "rl.env_frames=3000",
        "learner.learning_rate=1.5e-4",
        "learner.final_learning_rate=5e-5",
    ),
    "finetuned",
)
_CONTROL: Final = Design(
    "impala_rainbow_scratch",
    "scratch",
    (*_C51, "rl.env_frames=6000", "actors.epsilon_warmup_frames=400", "learner.learning_rate=1.5e-4"),
)
_GENERATIONS: Final = ((_TEACHER,), (_FINE_TUNED,), (_STUDENT, _CONTROL))


@contextmanager
def _one_ray() -> Generator[str]:
    """Address of a local Ray for all runs, so that each need not wait for one of its own."""
    with private_folder() as folder:
        import ray  # after the folder: Ray reads its security mode once, when it is imported

        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
        try:
            yield cast(str, ray.get_runtime_context().gcs_address)
        finally:
            ray.shutdown()


class Workflow:
    """A folder with runs and teachers, and the commands that fill it. Every method raises RuntimeError on failure."""

    def __init__(self, folder: Path, seeds: Sequence[int], address: str) -> None:
        self._folder, self._seeds = folder, seeds
        self._names = list[str]()
        folder.mkdir(parents=True)
        self._environment = os.environ | {
            "RAY_ADDRESS": address,
            "UPCYCLE_RUNS": str(folder / "runs"),
            "UPCYCLE_TEACHERS": str(folder / "teachers"),
        }

    def play(self) -> None:
        """All generations; of each design the first seed's run becomes the teacher of that name."""
        for generation in _GENERATIONS:
            for design in generation:
                for seed in self._seeds:
                    self._run(design, seed)
                self._upcycle("teacher", "publish", f"{design.name}-{self._seeds[0]}", "--name", design.name)

    def report(self) -> dict[str, Any]:
        """Paths and numbers of the figure over all runs."""
        return json.loads(self._upcycle("report", *self._names))

    def _run(self, design: Design, seed: int) -> None:
        name = f"{design.name}-{seed}"
        overrides = [*_SIZES, *design.overrides, f"seed={seed}"]
        overrides += [f"teacher.id={design.teacher}"] if design.teacher else []
        sets = [word for override in overrides for word in ("--set", override)]
        start = time.monotonic()
        summary = json.loads(self._upcycle("run", design.preset, "--name", name, *sets))
        self._names.append(name)
        scores = " ".join(f"{score['mean_return']:.2f}" for score in summary["scores"])
        final = summary["final"]["mean_return"]
        print(f"{name}: {final:.2f} after {time.monotonic() - start:.0f} s ({scores})", file=sys.stderr, flush=True)

    def _upcycle(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "orchestrator.cli", *arguments, "--json"]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=_RUN_SECONDS
        )
        if done.returncode:
            raise RuntimeError(f"upcycle {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout.strip().splitlines()[-1]


def main() -> None:
    """Plays, reports, and copies the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="runs of each design (default 0 1 2)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/workflow_in_small"), help="a folder that is not there"
    )
    parser.add_argument("--output", type=Path, help="existing folder for workflow.png and workflow.json")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"--folder {arguments.folder}: is there already; name another one, or remove it")
    if arguments.output is not None and not arguments.output.is_dir():
        parser.error(f"--output {arguments.output}: there is no such folder")
    start = time.monotonic()
    with _one_ray() as address:
        workflow = Workflow(arguments.folder.resolve(), arguments.seeds, address)
        workflow.play()
    written = workflow.report()
    print(f"{time.monotonic() - start:.0f} s in all: {written['html']}")
    if arguments.output is not None:
        numbers = {key: written[key] for key in ("scales", "curves", "improvements")}
        shutil.copyfile(written["png"], arguments.output / "workflow.png")
        (arguments.output / "workflow.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    with leavable_streams():
        main()
