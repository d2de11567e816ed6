"""What all tests share."""

import time

import pytest

COLLECTED = pytest.StashKey[tuple[list[str], int]]()
"""Names of all tests before any was deselected, and the second of the clock by which they were known."""


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
