"""The online phase of the demo, measured: `python -m benchmarks.end_to_end --json`.

Runs the demo preset as a user would, with an offline phase of a few steps, waits until the online phase samples, and
reads the run's heartbeats at both ends of a window. Everything takes part: actors, shards, learner, evaluator, Ray.
The figures are of this machine alone; `learner_wait_fraction` and `samples_per_insert` say what limited the run:
a learner that hardly waits is the limit itself, one that waits is starved by actors or by the limiter.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from upcycle.config.io import load_config
from upcycle.runs.run_folder import RunFolder

PRESET = Path(__file__).resolve().parent.parent / "deploy" / "presets" / "pong_cpu.toml"
_START_SECONDS = 420.0
_STOP_SECONDS = 90.0
_OVERRIDES = (
    "teacher.collect_frames=20000",
    "offline.learner_steps=50",
    "online.env_frames=1000000000",
    "replay.min_size_to_sample=2000",
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters of a run at one time; seconds are of the monotonic clock."""

    seconds: float
    env_frames: int
    learner_steps: int
    wait_seconds: float
    sampled: float
    inserted: float

    @classmethod
    def of(cls, folder: RunFolder) -> "Reading | None":
        """The newest heartbeats, or None unless the online phase is sampling."""
        statuses = folder.statuses()
        learner = statuses.get("learner-0", {})
        if learner.get("phase") != "online" or not learner.get("phase_learner_steps"):
            return None
        shards = [status for name, status in statuses.items() if name.startswith("replay-")]
        return cls(
            seconds=float(learner["time"]),
            env_frames=int(learner["env_frames"]),
            learner_steps=int(learner["learner_steps"]),
            wait_seconds=float(learner["wait_seconds"]),
            sampled=sum(float(shard["num_sampled"]) for shard in shards),
            inserted=sum(float(shard["num_inserted"]) for shard in shards),
        )


def rates(before: Reading, after: Reading, *, batch_size: int) -> dict[str, float]:
    """Figures of the window between two readings."""
    seconds = after.seconds - before.seconds
    steps = after.learner_steps - before.learner_steps
    inserted = after.inserted - before.inserted
    return {
        "env_frames_per_s": round((after.env_frames - before.env_frames) / seconds, 1),
        "sampled_transitions_per_s": round(steps * batch_size / seconds, 1),
        "samples_per_insert": round((after.sampled - before.sampled) / inserted, 3) if inserted else 0.0,
        "learner_steps_per_s": round(steps / seconds, 2),
        "learner_wait_fraction": round((after.wait_seconds - before.wait_seconds) / seconds, 4),
        "seconds": round(seconds, 2),
    }


def measure(seconds: float) -> dict[str, float]:
    """Runs the preset's online phase for `seconds` and returns its figures."""
    with tempfile.TemporaryDirectory(prefix="upcycle-bench-") as scratch:
        # A store of its own: the short buffer collected here must not become the demo's.
        environment = os.environ | {"UPCYCLE_TEACHERS": f"{scratch}/teachers"}
        with (Path(scratch) / "output.txt").open("w+") as output:
            command = [
                sys.executable,
                "-m",
                "orchestrator.cli",
                "run",
                str(PRESET),
                "--runs",
                scratch,
                "--name",
                "bench",
            ]
            for override in _OVERRIDES:
                command += ["--set", override]
            run = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            try:
                before = _wait_for_online(run, Path(scratch) / "bench", output.name)
                time.sleep(seconds)
                folder = RunFolder.open(Path(scratch) / "bench")
                after = Reading.of(folder)
            finally:
                run.send_signal(signal.SIGTERM)
                try:
                    run.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()
    if after is None:
        raise RuntimeError("the run left its online phase within the window")
    return rates(before, after, batch_size=load_config(PRESET, _OVERRIDES).learner.batch_size)


def _wait_for_online(run: "subprocess.Popen[bytes]", path: Path, output: str) -> Reading:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if run.poll() is not None:
            raise RuntimeError(f"the run ended early:\n{Path(output).read_text()[-2000:]}")
        reading = Reading.of(RunFolder(path)) if path.is_dir() else None
        if reading is not None:
            return reading
        time.sleep(1.0)
    raise RuntimeError(f"no online phase within {_START_SECONDS} s:\n{Path(output).read_text()[-2000:]}")


def main() -> None:
    """Prints one JSON line, or a short table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the window (default 60)")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    arguments = parser.parse_args()
    _print(measure(arguments.seconds), as_json=arguments.json)


def _print(figures: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(figures)))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:>12,.3f}")


if __name__ == "__main__":
    main()
