"""A distribution that is installed as far as Python can tell: a module and its metadata in a folder on the path."""

import shutil
import sys
from pathlib import Path

import pytest

CATCHERS = '''
import numpy as np

ROWS, COLUMNS = 10, 5

def values(observation):
    """-1/4 for each column that the paddle is away from the ball after the action."""
    assert observation.dtype == np.float32 and observation.shape[1:] == (1, 50)
    grid = observation.reshape(-1, ROWS, COLUMNS)
    ball, paddle = grid[:, :-1].sum(axis=1).argmax(axis=1), grid[:, -1].argmax(axis=1)
    moved = np.clip(paddle[:, None] + np.arange(3) - 1, 0, COLUMNS - 1)
    return (1.0 - 0.25 * np.abs(moved - ball[:, None])).astype(np.float32)

class Catcher:
    kind, cacheable, actions = "q_values", True, ("left", "stay", "right")

    def __call__(self, observation):
        return values(observation)

class Dice(Catcher):
    """Plays as well, but never says quite the same."""
    kind, cacheable = "probabilities", False

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, observation):
        found = np.exp(20 * values(observation) + self.rng.normal(0, 0.1, (len(observation), 3)))
        observation[:] = 7.0
        return found / found.sum(axis=1, keepdims=True)

class Pusher:
    kind, actions = "q_values", ("go left", "go right")

    def __call__(self, observation):
        return observation[:, 0, :2]

def plain(observation):
    return values(observation)

def raises(observation):
    raise RuntimeError("no idea")

def narrow(observation):
    return values(observation)[:, :2]

def whole(observation):
    return np.ones((len(observation), 3), int)

def infinite(observation):
    return np.full((len(observation), 3), np.inf)

def of_the_batch(observation):
    return values(observation) + np.arange(len(observation))[:, None]

not_callable = 3
'''
NAMES = (
    "Catcher",
    "Dice",
    "Pusher",
    "plain",
    "raises",
    "narrow",
    "whole",
    "infinite",
    "of_the_batch",
    "not_callable",
    "missing",
)


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, distribution: str = "catchers", version: str = "1.0"
) -> None:
    """Makes the entry points `catchers.NAME` known, in place of those of an older version in the same folder."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{distribution}-*.dist-info"):
        shutil.rmtree(old)
    info = folder / f"{distribution}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"catchers.{name} = catchers_of_tests:{name}" for name in NAMES]
    (info / "entry_points.txt").write_text("\n".join(["[upcycle.teachers]", *lines, ""]))
    (folder / "catchers_of_tests.py").write_text(CATCHERS)
    if str(folder) not in sys.path:
        monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "catchers_of_tests", raising=False)
