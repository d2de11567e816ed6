"""State, progress and processes of a run, read from its folder: without Ray, Redis or the driver."""

import time
from collections.abc import Mapping
from typing import Final

from orchestrator.run import lease
from upcycle.runs.run_folder import Record, RunFolder

_STALE_SECONDS: Final = 30.0
_ENDED: Final = ("finished", "stopped", "failed")


def describe(folder: RunFolder) -> Record:
    """State, progress, newest score and processes of a run, as plain values.

    `state` is "lost" where the files say "running" but the driver is gone (killed, or its machine is).
    """
    manifest, config = folder.manifest, folder.config
    statuses, scores = folder.statuses(), folder.scores()
    driver = statuses.pop("driver-0", {})
    pid = lease.holder(folder)
    state = str(manifest["state"])
    fresh = time.time() - float(driver.get("time", 0.0)) < _STALE_SECONDS  # a driver on another machine
    if state in ("running", "created") and pid is None and not fresh:
        state = "lost"
    return {
        "name": folder.path.name,
        "run_id": manifest["run_id"],
        "env_id": config.env.task,
        "state": state,
        "pid": pid,
        "phase": "done" if state == "finished" else driver.get("phase"),
        "fraction": driver.get("fraction"),
        "seconds_left": driver.get("seconds_left"),
        "env_frames": driver.get("env_frames", 0),
        "learner_steps": driver.get("learner_steps", 0),
        "games": driver.get("games") if state in ("running", "created") else None,
        "restarts": driver.get("restarts", 0),
        "samples_per_insert": driver.get("samples_per_insert"),
        "replay": driver.get("replay"),
        "reason": manifest.get("reason"),
        "warning": driver.get("warning") if state == "running" else None,
        "standstill": driver.get("standstill") if state == "running" else None,
        "teacher": manifest.get("teacher"),
        "random_score": manifest.get("random_score"),
        "score": {**scores[-1], "returns": []} if scores else None,
        "waiting_for": driver.get("waiting_for") if state in ("running", "created") else None,
        "processes": _processes(statuses, driver.get("processes", {}), state),
    }


def _of_process(status: Record, state: str) -> Record:
    """What was heard last of a process; none runs where its run does not."""
    is_up = status["state"] in ("running", "starting", "waiting")
    return status | {"state": "ended", "waiting": None} if is_up and state in _ENDED else status


def _processes(statuses: Mapping[str, Record], known: Mapping[str, Record], state: str) -> dict[str, Record]:
    """What each process has written itself and what the driver knows of it, also of those that have yet to write."""
    names = [*statuses, *(name for name in known if name not in statuses)]
    merged = {name: {"state": "unknown", **statuses.get(name, {}), **known.get(name, {})} for name in sorted(names)}
    return {name: _of_process(process, state) for name, process in merged.items()}
