"""Small runs of Catch for tests: every part real, seconds long."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.run.preparation import Plan, prepare_run
from orchestrator.run.progress import SilentView
from orchestrator.run.run_checks import check_run
from teacher_store.store.store import TeacherStore
from tests.helpers.paths import ROOT
from upcycle.config.io import load_config
from upcycle.config.run import RunConfig
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal

CATCH = ROOT / "deploy" / "presets" / "catch.toml"


def catch(*overrides: str) -> RunConfig:
    """The preset with a smaller evaluation."""
    return load_config(CATCH, ["evaluation.episodes=5", "evaluation.final_episodes=8", *overrides])


def plan_for(config: RunConfig, root: Path) -> Plan:
    store = TeacherStore(root, bundled=None)
    return prepare_run(check_run(config, store), store, stop=StopSignal(), view=SilentView())


def new_run(path: Path, config: RunConfig, **manifest: Any) -> RunFolder:
    plan = plan_for(config, path.parent / "teachers")
    return RunFolder.create(path, config, **(plan.to_manifest() | {"preset": "catch", "versions": {}} | manifest))


def wait_until(condition: Callable[[], object], seconds: float = 250.0) -> None:
    """Fails when `condition` does not become true in time: near the end of a test's own time, for loaded machines."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
