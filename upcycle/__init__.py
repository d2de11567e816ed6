"""Upcycle's Python API, and the vocabulary that its packages share: chunks, windows, configuration, networks, logs.

`docs/python_api.md` describes the public names. They live in higher packages and are imported on first use, so
`import upcycle` costs milliseconds and loads neither NumPy nor torch. `__init__.pyi` declares them for type checkers.
"""

from importlib import import_module
from typing import Any, Final

__version__ = "0.1.0"

_PUBLIC: Final = {
    "upcycle.config.run": ("EnvConfig", "NetworkConfig", "RunConfig"),
    "upcycle.errors": ("CorruptDataError", "UpcycleError", "UserError"),
    "upcycle.extensions": ("environment", "exploration", "head", "loss_term", "torso"),
    "actors.lanes": ("EnvSpec", "LaneRows", "Lanes"),
    "learner.loss_terms": ("LossInputs",),
    "orchestrator.api.evaluation": ("Evaluation", "evaluate"),
    "orchestrator.api.batch": ("Batch",),
    "orchestrator.api.log": ("ExperienceLog", "open_log"),
    "orchestrator.api.presets": ("list_presets", "load_preset"),
    "orchestrator.api.replay_client": ("ReplayBatch", "ReplayClient", "Transition", "connect_replay"),
    "orchestrator.api.replay_server": ("ReplayServer", "start_replay"),
    "orchestrator.api.running": ("Progress", "Run", "RunFailed", "open_run", "run"),
    "orchestrator.api.teachers": (
        "Teacher",
        "TeacherRecord",
        "import_teacher",
        "list_teachers",
        "load_teacher",
        "publish_teacher",
    ),
}
_MODULE_OF: Final = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'upcycle' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
