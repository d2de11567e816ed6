"""How often the driver looks, and in which order it ends a run's processes. Pure, but for `import_ahead`."""

import importlib
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from orchestrator.processes.context import Role

ROUND_SECONDS: Final = 1.0
_QUICK_SECONDS: Final = 0.2
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 2.0
SHARD_SECONDS: Final = 15.0
"""For a shard to finish the calls under way and write its log."""


class Stage(NamedTuple):
    """Roles that are ended together, and the seconds that each of their processes may take to finish its work."""

    roles: tuple[Role, ...]
    seconds: float


_STOP: Final = (
    Stage(("actor",), 15.0),
    Stage(("learner",), 45.0),
    Stage(("evaluator",), 15.0),
    Stage(("replay",), SHARD_SECONDS),
)
_FINISH: Final = (Stage(("actor", "learner", "evaluator"), 1.5), Stage(("replay",), SHARD_SECONDS))


def stages(*, finished: bool) -> Sequence[Stage]:
    """The end of a run, stage by stage.

    A run that is stopped ends one role after the other: the learner still draws, so that replay takes the actors' last
    chunks. Once the learner has finished, nobody draws, replay takes nothing, and what is played or scored counts no
    more: nobody is waited for but the shards.
    """
    return _FINISH if finished else _STOP


def round_seconds(age: float, seconds_left: float | None) -> float:
    """How long a round of the driver takes: short in a stretch's first minute, and when its phase is about to end.

    Args:
      age: of the stretch, seconds.
      seconds_left: of the phase, None while unknown.
    """
    about_to_end = seconds_left is not None and seconds_left < _END_SECONDS
    return _QUICK_SECONDS if age < _START_SECONDS or about_to_end else ROUND_SECONDS


def answer_seconds(age: float) -> float:
    """How long a round waits for answers; short while processes come up, which do not answer yet."""
    return _QUICK_SECONDS if age < _START_SECONDS else _ANSWER_SECONDS


def import_ahead(*modules: str) -> threading.Thread:
    """Imports modules that will be wanted in a moment, beside what waits for others; the caller joins the thread."""
    thread = threading.Thread(target=lambda: [importlib.import_module(name) for name in modules], name="import-ahead")
    thread.start()
    return thread
