"""What all tests share."""

import gc
import os
import signal
import time
from collections.abc import Generator

import pytest

# Threads that wait for one another spin: with several test processes on two cores they took two thirds of the CPU time.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# Tests talk to this machine alone; urllib and the like would ask the proxy of whoever runs them.
for _name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

COLLECTED = pytest.StashKey[tuple[list[str], int]]()
"""Names of all tests before any was deselected, and the second of the clock by which they were known."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests live to the end of the session, so the garbage collector never has to look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def hang_ups() -> Generator[None]:
    """SIGHUP has its default action, even if the tests run under `nohup`; child processes inherit it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device; torch is imported only if there are such tests."""
    config.stash[COLLECTED] = [item.nodeid for item in items], int(time.time())
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
