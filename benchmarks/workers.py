"""Processes that measure on command. Imports NumPy alone, see `measure`.

A worker writes one JSON line once it is ready, then answers each command of its standard input, {"do": NAME,
"seconds": S}, with one line: the fields of a `Rate`. End of input ends it. Answers go through a pipe of their own,
named by the environment, because libraries print to standard output as early as when they are imported.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.measure import Rate, Window, own_cpu_seconds

_ANSWERS: Final = "UPCYCLE_BENCHMARK_ANSWERS"
_LOOK_SECONDS: Final = 0.1
_IDLE_SHARE: Final = 0.05  # of a core
_IDLE_SECONDS: Final = 10.0
ROOT: Final = Path(__file__).resolve().parent.parent
PEERS_PYTHON: Final = ROOT / ".venv-peers" / "bin" / "python"
"""The environment of other systems, if it has been made."""


def python_module(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Command that runs a module of ours."""
    return [python, "-m", module, *arguments]


def serve(windows: Mapping[str, Window], facts: Mapping[str, Any]) -> None:
    """Answers commands until there are no more. `facts` is the first line."""
    lines = os.fdopen(int(os.environ[_ANSWERS]), "w", buffering=1)
    print(json.dumps(dict(facts)), file=lines)
    for line in sys.stdin:
        command = json.loads(line)
        rate = windows[command["do"]](float(command["seconds"]))
        _wait_until_idle()
        print(json.dumps(rate.to_json()), file=lines)


def _wait_until_idle() -> None:
    """Waits until this process's threads stand still: what fetches ahead would take the next one's window."""
    deadline = time.monotonic() + _IDLE_SECONDS
    while time.monotonic() < deadline:
        before = own_cpu_seconds()
        time.sleep(_LOOK_SECONDS)
        if own_cpu_seconds() - before < _IDLE_SHARE * _LOOK_SECONDS:
            return
    print("a worker is still busy after its window; the next window may be disturbed", file=sys.stderr)


class Worker:
    """One such process. Close it.

    Attributes:
      pid: of the process.
      facts: its first line.

    Args:
      errors: file to which its output is appended.
      environment: variables that it gets beside ours.
    """

    def __init__(self, command: Sequence[str], *, errors: Path, environment: Mapping[str, str] | None = None) -> None:
        self._errors = errors
        self._command = list(command)
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, encoding="utf-8")
        try:
            with errors.open("ab") as stream:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=stream,
                    stderr=stream,
                    cwd=ROOT,
                    env=os.environ | dict(environment or {}) | {_ANSWERS: str(theirs)},
                    pass_fds=[theirs],
                    start_new_session=True,  # Ctrl-C is for the benchmark alone, which ends its workers
                    text=True,
                )
        except OSError:
            self._answers.close()
            raise
        finally:
            os.close(theirs)
        self.pid = self._process.pid
        self.facts = dict[str, Any]()

    def wait_until_ready(self) -> Self:
        """Reads the first line into `facts`. Raises RuntimeError if the process fails before it."""
        self.facts = self._read()
        return self

    def begin(self, name: str, seconds: float) -> None:
        """Lets it measure; `finish` waits for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": name, "seconds": seconds}) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Rate:
        """The answer to `begin`. Raises RuntimeError if the process failed."""
        return Rate(**self._read())

    def measure(self, name: str, seconds: float) -> Rate:
        """`begin` and `finish`."""
        self.begin(name, seconds)
        return self.finish()

    def stop(self) -> None:
        """Ends the process without waiting for what it does; `close` it all the same."""
        self._process.terminate()

    def close(self) -> None:
        """Ends the process; a second call does nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        self.close()

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            said = self._errors.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(self._command)} ended early:\n{said}")
        return dict(json.loads(line))
