"""A watcher who goes away: pipes without a reader, and hang-ups."""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.app import main
from orchestrator.cli.options import STOPPED
from orchestrator.run import launch, signals
from orchestrator.run.progress import Progress, SilentView
from orchestrator.run.signals import stop_on_signals
from tests.helpers.runs import CATCH, catch, new_run
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import StopSignal

pytestmark = pytest.mark.slow


@contextmanager
def nobody_reads(monkeypatch: pytest.MonkeyPatch, *names: str) -> Generator[None]:
    """Makes standard streams pipes whose reader has gone."""
    files = list[Any]()
    try:
        for name in names:
            reader, writer = os.pipe()
            os.close(reader)
            files.append(os.fdopen(writer, "w", encoding="utf-8", buffering=1))
            monkeypatch.setattr(sys, name, files[-1])
        yield
    finally:
        for file in files:
            file.close()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPCYCLE_TEACHERS", str(tmp_path / "teachers"))
    RunFolder.create(tmp_path / "runs" / "one", catch(), teacher=None, random_score=0.0, preset="catch", versions={})
    return tmp_path / "runs"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status"], 0),
        (["status", "one"], 0),
        (["report", "one"], 0),
        (["teacher", "list"], 0),
        (["teacher", "gc"], 0),
        (["lineage"], 0),
        (["status", "two"], 2),
        (["stop", "one"], 2),
    ],
)
def test_no_verb_minds_who_reads(
    words: list[str], code: int, as_json: bool, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    of_runs = ["--runs", str(runs)] if words[0] in ("status", "report", "stop") else []
    with nobody_reads(monkeypatch, "stdout", "stderr"):
        assert main([*words, *of_runs, *(["--json"] if as_json else [])]) == code


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["fly"]])
def test_help_minds_nobody_either(words: list[str], monkeypatch: pytest.MonkeyPatch):
    with nobody_reads(monkeypatch, "stdout", "stderr"), pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == (2 if words == ["fly"] else 0)


def test_a_run_goes_on_when_its_watcher_has_gone(runs: Path, monkeypatch: pytest.MonkeyPatch):
    """And so says the exit code, whether it was stopped or has failed."""
    rounds, failure = list[int](), list[Exception]()

    def long_run(*_: object, view: Any, **__: object) -> None:
        with view:
            for number in range(100):
                view.say(f"event {number}")
                view.show(Progress(f"phase {number}"))
                rounds.append(number)
        if failure:
            raise failure[0]

    monkeypatch.setattr(launch, "run", long_run)
    arguments = ["run", str(CATCH), "--runs", str(runs), "--name", "new"]
    with nobody_reads(monkeypatch, "stdout", "stderr"):
        assert main(arguments) == STOPPED
        assert len(rounds) == 100
        failure.append(launch.RunFailed("learner-0 died 3 times"))
        assert main(arguments) == 1
        failure[0] = BrokenPipeError(32, "a socket, not what is printed to")
        assert main(arguments) == 1


@pytest.mark.usefixtures("hang_ups")
def test_hang_ups_ask_for_a_clean_end_and_never_insist():
    stop, before = StopSignal(), signal.getsignal(signal.SIGHUP)
    with stop_on_signals(stop):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wait(5)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGHUP) == before


def test_two_signals_of_one_wish_are_one(monkeypatch: pytest.MonkeyPatch):
    """As `timeout` sends them; and one that comes after `upcycle stop` has asked through the run's folder."""
    stop = StopSignal()
    stop.set()
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    with stop_on_signals(stop):  # as after Ray's start
        monkeypatch.setattr(signals, "_SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_cut_short_keeps_the_reason(runs: Path, monkeypatch: pytest.MonkeyPatch):
    @contextmanager
    def connect(*_: object) -> Generator[SimpleNamespace]:
        yield SimpleNamespace(node_address="127.0.0.1")

    def nothing(*_: object, **__: object) -> None:
        pass

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    folder = new_run(runs / "short", catch("name=short", "phases=rl"))
    monkeypatch.setattr(launch, "_connect", connect)
    monkeypatch.setattr(launch.Driver, "__init__", nothing)
    monkeypatch.setattr(launch.Driver, "run", interrupt)
    monkeypatch.setattr(launch, "start_tracker", nothing)
    with pytest.raises(KeyboardInterrupt):
        launch.resume(folder.path, [], view=SilentView(), place=None)
    assert (folder.manifest["state"], folder.manifest["reason"]) == ("failed", "cut short by a second signal")


def test_what_nohup_has_said_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopSignal()
        with stop_on_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.1)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
