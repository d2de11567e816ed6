"""Ctrl-C and SIGTERM: the first asks for a clean end, the second one insists."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from upcycle.runtime import StopSignal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(stop: StopSignal) -> Generator[None]:
    """Sets `stop` at the first signal, raises KeyboardInterrupt at the second; brings earlier handlers back at the end.

    Only in the main thread. Ray installs handlers of its own when it starts, so enter this again after that.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
