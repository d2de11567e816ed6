"""Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean end; a second Ctrl-C or SIGTERM insists."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from upcycle.runtime import StopSignal

_INSISTING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: StopSignal) -> Generator[None]:
    """Sets `stop` at the first signal, raises KeyboardInterrupt at the second; brings earlier handlers back at the end.

    A hang-up never insists: who closes a terminal is sent several, by the kernel and by the shell. Where it is ignored,
    as `nohup` has it, it stays so. Only in the main thread. Ray installs handlers of its own when it starts, so enter
    this again after that.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number in _INSISTING:
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    caught = list[signal.Signals](_INSISTING)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        caught.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
