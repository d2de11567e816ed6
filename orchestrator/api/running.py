"""A run in a process of its own, and a handle to it.

The driver handles signals, starts Ray and sets up the process that it is in, so it gets one of its own, in a session of
its own: an interrupt from the keyboard reaches the caller alone, and the run outlives the caller unless it is stopped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import tomlkit

from orchestrator.api.presets import RUNS
from orchestrator.reports.summary import Summary, read_summary
from orchestrator.run.driver import RunFailed
from orchestrator.run.state import describe
from orchestrator.run.stopping import stop_run
from upcycle.config.run import RunConfig
from upcycle.errors import UpcycleError, UserError
from upcycle.runs.run_folder import RunFolder

__all__ = ["Progress", "Run", "RunFailed", "open_run", "run"]

_POLL_SECONDS: Final = 0.2
_COMMAND: Final = "import sys; from orchestrator.cli.app import main; sys.exit(main())"
_STOPPED: Final = 3
"""Exit code of a run that was stopped before its end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
      state: "starting", "created", "running", "finished", "stopped", "failed" or "lost" (its driver is gone).
      phase: "offline", "online", "rl" or "done"; None before the first.
      fraction: of the phase, from 0 to 1; None where it is not known.
      env_frames: environment frames played.
      learner_steps: gradient steps.
      mean_return: raw, of the newest evaluation; None before the first.
      restarts: processes that were started again.
      reason: why the run ended early; None if it did not.
    """

    state: str
    phase: str | None = None
    fraction: float | None = None
    env_frames: int = 0
    learner_steps: int = 0
    mean_return: float | None = None
    restarts: int = 0
    reason: str | None = None


class Run:
    """A run, going on or ended. `run` and `open_run` make it.

    As a context manager it stops a run that still goes on. Without one the run goes on when the caller ends, and
    `open_run` finds it again.

    Attributes:
      path: its folder.
    """

    def __init__(self, path: Path, process: "_Process | None" = None) -> None:
        self.path = path
        self._process = process

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """The whole configuration, defaults included."""
        return RunFolder.open(self.path).config

    def progress(self) -> Progress:
        """How far it is now; the files of its folder say it."""
        if not self._has_begun():
            return Progress("starting" if self._goes_on() else "failed")
        record = describe(RunFolder.open(self.path))
        score = record["score"]
        return Progress(
            state=record["state"],
            phase=record["phase"],
            fraction=record["fraction"],
            env_frames=record["env_frames"],
            learner_steps=record["learner_steps"],
            mean_return=None if score is None else score["mean_return"],
            restarts=record["restarts"],
            reason=record["reason"],
        )

    def wait(
        self, timeout_seconds: float | None = None, *, on_progress: Callable[[Progress], object] | None = None
    ) -> Summary:
        """Waits until it has ended and returns its summary, also of a run that was stopped.

        Args:
          timeout_seconds: how long to wait; None waits without an end.
          on_progress: called in this thread whenever the progress has changed; an error in it ends the wait alone.
        Raises: RunFailed; TimeoutError if it has not ended in time: it goes on then.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        known: Progress | None = None
        while True:
            ended = not self._goes_on()  # first, so that the last progress is that of the end
            if on_progress is not None and (progress := self.progress()) != known:
                known = progress
                on_progress(progress)
            if ended:
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"run {self.name} has not ended within {timeout_seconds:g} s")
            time.sleep(_POLL_SECONDS)
        self._raise_failure()
        return self.summary()

    def stop(self, *, timeout_seconds: float = 180.0) -> None:
        """Ends it with a checkpoint and waits until it has ended; a run that has ended stays as it is.

        Raises: UserError if it has not ended in time.
        """
        if not self._goes_on():
            return
        if not self._has_begun():
            assert self._process is not None
            self._process.terminate(timeout_seconds)
            return
        try:
            stop_run(RunFolder.open(self.path), timeout_seconds=timeout_seconds)
        except UserError:
            if self._goes_on():
                raise
        if self._process is not None:
            self._process.wait(timeout_seconds)

    def summary(self) -> Summary:
        """What it came to, or has come to so far; `orchestrator.reports.summary` lists the keys."""
        return read_summary(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.progress().state}>"

    def _has_begun(self) -> bool:
        return self._process is None or self._process.has_begun()

    def _goes_on(self) -> bool:
        if self._process is not None:
            return self._process.is_alive()
        return describe(RunFolder.open(self.path))["state"] in ("running", "created")

    def _raise_failure(self) -> None:
        if self._process is not None and self._process.failed:
            raise RunFailed(self._process.last_words() or f"run {self.name} has failed")
        progress = self.progress()
        if progress.state in ("failed", "lost"):
            raise RunFailed(progress.reason or f"run {self.name}: its driver is gone")


class _Process:
    """The driver's process, what it prints, and the folder that it makes."""

    def __init__(self, config: RunConfig, runs: Path, *, overwrite: bool) -> None:
        self._path = runs / config.name
        self._old_id = _run_id(self._path)
        folder = Path(tempfile.mkdtemp(prefix="upcycle-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        preset, self._output = folder / f"{config.name}.toml", folder / "output"
        preset.write_text(_dump_given(config), encoding="utf-8")
        arguments = ["run", str(preset), "--runs", str(runs), "--json", *(["--overwrite"] if overwrite else [])]
        paths = [path for path in sys.path if path] + [os.getcwd()]  # its processes find what the caller can import
        with self._output.open("wb") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
            )

    @property
    def failed(self) -> bool:
        return self._popen.poll() not in (None, 0, _STOPPED)

    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def has_begun(self) -> bool:
        """Whether the folder is there, and is not an older run's."""
        return _run_id(self._path) not in (None, self._old_id)

    def wait(self, timeout_seconds: float) -> None:
        try:
            self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            problem = f"has not ended within {timeout_seconds:g} s"
            raise UserError("run", self._path.name, problem, "see its logs, or wait longer") from error

    def terminate(self, timeout_seconds: float) -> None:
        """Ends it before its run has begun."""
        self._popen.terminate()
        self.wait(timeout_seconds)

    def last_words(self) -> str:
        """The line that says why it failed."""
        lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.removeprefix("upcycle: ") for line in lines if line.startswith("upcycle: ")]
        return (said or [line for line in lines if line.strip()] or [""])[-1]


def run(config: RunConfig, *, runs: str | Path | None = None, overwrite: bool = False) -> Run:
    """Starts a run in a process of its own and returns at once.

    Args:
      config: for example from `load_preset`. What its section `env` leaves out is the teacher's.
      runs: folder of the runs; by default UPCYCLE_RUNS, else `runs`.
      overwrite: remove an earlier run of that name, if it is not running.
    Raises: UserError if there is a run of that name; what its plan refuses later is raised by `Run.wait`.
    """
    folder = RUNS if runs is None else Path(runs)
    path = folder / config.name
    if path.exists() and not overwrite:
        raise UserError("run", path.name, "exists already", "choose another name, or pass overwrite=True")
    return Run(path, _Process(config, folder.absolute(), overwrite=overwrite))


def open_run(name: str, *, runs: str | Path | None = None) -> Run:
    """A run that was started before, here or on the command line.

    Args:
      name: of the run.
      runs: folder of the runs; by default UPCYCLE_RUNS, else `runs`.
    Raises: UserError if there is none of that name.
    """
    return Run(RunFolder.open((RUNS if runs is None else Path(runs)) / name).path)


def _run_id(path: Path) -> str | None:
    if not (path / "manifest.json").is_file():
        return None
    try:
        return str(RunFolder.open(path).manifest["run_id"])
    except (OSError, UpcycleError):  # removed, or being replaced, at this moment
        return None


def _dump_given(config: RunConfig) -> str:
    """As TOML, what was given: a field of `env` that is left out is taken from the teacher."""
    return tomlkit.dumps(_without_none(config.model_dump(mode="json", exclude_unset=True)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return {name: _without_none(inner) for name, inner in items if inner is not None}
    return value
