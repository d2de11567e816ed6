"""How long a small run takes to start and to end, from outside: `python -m benchmarks.start_and_end [--runs 3]`.

The command is `upcycle run catch --set phases=rl --set rl.env_frames=2000`, which trains for about two seconds. Wall
time is from the command to its first gradient step, and from its last one until the command has returned; CPU time is
that of all processes that the command starts, as seen every fifth of a second, without what a process uses in its last
moments.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.measure import Disturbance, median
from orchestrator.run.timings import timings_table

_POLL_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 300.0
_SETTINGS: Final = ("phases=rl", "rl.env_frames=2000")


def measure(runs: Path) -> dict[str, Any]:
    """One run. Raises: RuntimeError if it fails."""
    command = [
        str(Path(sys.executable).with_name("upcycle")),
        "run",
        "catch",
        "--overwrite",
        "--json",
        "--runs",
        str(runs),
    ]
    command += [word for setting in _SETTINGS for word in ("--set", setting)]
    disturbance, began = Disturbance(), time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    family, used = psutil.Process(process.pid), dict[int, float]()
    while process.poll() is None and time.time() - began < _LONGEST_SECONDS:
        with suppress(psutil.Error):
            for member in (family, *family.children(recursive=True)):
                with suppress(psutil.Error):
                    times = member.cpu_times()
                    used[member.pid] = times.user + times.system
        time.sleep(_POLL_SECONDS)
    ended = time.time()
    process.kill()
    output, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(errors)
    timings = json.loads(output)["timings"]
    return {
        "first_step_seconds": timings["first_step"],
        "return_seconds": ended - began - timings["last_step"],
        "wall_seconds": ended - began,
        "cpu_seconds": sum(used.values()),
        "others_cores": max(disturbance.cores() - sum(used.values()) / (ended - began), 0.0),
        "timings": timings,
    }


def main() -> None:
    """Measures and prints JSON, and the steps of the last run on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    measured = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.runs):
            measured.append(measure(Path(folder)))
            print({key: round(value, 2) for key, value in measured[-1].items() if key != "timings"}, file=sys.stderr)
    print(*timings_table(measured[-1]["timings"]), sep="\n", file=sys.stderr)
    keys = [key for key in measured[0] if key != "timings"]
    print(json.dumps({key: round(median(run[key] for run in measured), 2) for key in keys}))


if __name__ == "__main__":
    main()
