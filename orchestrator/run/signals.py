"""Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean end; another Ctrl-C, or a later SIGTERM, insists."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from upcycle.runs.runtime import StopSignal

_SAME_SECONDS: Final = 2.0
"""A SIGTERM so soon after the first signal is the same wish: `timeout` sends two, one to the process and one to its
group, and `upcycle stop` may be one of several that end a job."""


@contextmanager
def stop_on_signals(stop: StopSignal) -> Generator[None]:
    """Sets `stop` at the first signal, raises KeyboardInterrupt at one that insists; brings earlier handlers back.

    A hang-up never insists: who closes a terminal is sent several, by the kernel and by the shell. Where it is ignored,
    as `nohup` has it, it stays so. Only in the main thread. Ray installs handlers of its own when it starts, so enter
    this again after that.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if stop.signalled_at is None:
            stop.signalled_at = now
        elif number == signal.SIGINT or (number == signal.SIGTERM and now - stop.signalled_at > _SAME_SECONDS):
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    caught = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        caught.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
