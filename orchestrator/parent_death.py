"""A process that ends with the one that started it, on Linux."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int | None = None) -> None:
    """Has the kernel kill this process when its parent ends. Does nothing elsewhere.

    Args:
      parent: its process id; this process is killed now if that one has ended already. None if it is not known.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
