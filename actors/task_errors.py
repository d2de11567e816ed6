"""Errors for tasks that EnvPool does not know or cannot make on this machine."""

import difflib
import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final

from upcycle.errors import UserError

_VARIANTS: Final = re.compile(r"(NoFrameskip|Deterministic|-ram)+$", re.IGNORECASE)
"""Of Gym's Atari names, as CleanRL and Stable-Baselines3 use them."""
_VERSION: Final = re.compile(r"[-_]v(\d+)$", re.IGNORECASE)
_MOST: Final = 3


def unknown_task(task: str, known: Iterable[str]) -> UserError:
    """The error for a task that is none of `known`."""
    near = nearest_tasks(task, known)
    remedy = f"did you mean {' or '.join(near)}?" if near else "EnvPool's documentation lists all tasks"
    return UserError("env.task", task, "is no EnvPool task", remedy)


@contextmanager
def failures_explained(task: str) -> Generator[None]:
    """Turns any error of an environment family into a UserError: libraries, files or settings are missing."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a foreign library may raise
        lacks = isinstance(error, ImportError | OSError)
        remedy = "install what is missing" if lacks else "it needs files or settings that a run does not provide"
        problem = f"EnvPool cannot make it on this machine: {' '.join(str(error).split()).rstrip('.')}"
        raise UserError("env.task", task, problem, f"{remedy}; or choose another task, for example Pong-v5") from error


def nearest_tasks(task: str, known: Iterable[str]) -> Sequence[str]:
    """At most three of `known`: names of the same game, plainest and newest first; else the most similar names.

    `ALE/Pong-v5`, `PongNoFrameskip-v4`, `Pong-ramDeterministic-v4` and `pong` are the game of `Pong-v5`.
    """
    games = dict[str, list[str]]()
    for name in sorted(known, key=lambda name: (name.count("/"), -_version(name), name)):
        games.setdefault(_game(name), []).append(name)
    same = games.get(_game(task))
    if same is not None:
        return same[:_MOST]
    return [games[game][0] for game in difflib.get_close_matches(_game(task), games, n=_MOST, cutoff=0.7)]


def _game(name: str) -> str:
    base = _VARIANTS.sub("", _VERSION.sub("", name.rpartition("/")[2]))
    return re.sub(r"[^a-z0-9]", "", base.lower())


def _version(name: str) -> int:
    found = _VERSION.search(name)
    return int(found[1]) if found else 0
