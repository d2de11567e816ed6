"""A process that ends with the one that started it, on Linux."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int | None = None, number: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent ends. Does nothing elsewhere.

    Args:
      parent: its process id; the signal comes now if that one has ended already. None if it is not known.
      number: which signal.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)
