"""Extensions: loss terms, torsos, heads, explorations and environments that other distributions bring.

A configuration names one by its entry point (`my_torso`, of a group in `GROUPS`) or as `module:attribute`. The latter
must be decorated, for example with `@upcycle.torso`: what is not meant as an extension is never called, whatever name a
preset or a teacher's record holds.
"""

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from upcycle.errors import UserError

ExtensionKind = Literal["loss_term", "torso", "head", "exploration", "environment"]

GROUPS: Final[Mapping[ExtensionKind, str]] = {
    "loss_term": "upcycle.loss_terms",
    "torso": "upcycle.torsos",
    "head": "upcycle.heads",
    "exploration": "upcycle.explorations",
    "environment": "upcycle.environments",
}
"""Group of entry points of each kind."""

_MARK: Final = "upcycle_extension"
_T = TypeVar("_T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class Extension:
    """A loaded extension.

    Attributes:
      kind, reference: what was asked for.
      distribution, version: where it is from; empty for a module of no installed distribution.
      value: the object itself.
    """

    kind: ExtensionKind
    reference: str
    distribution: str
    version: str
    value: Callable[..., Any]


def loss_term(extension: _T) -> _T:
    """Marks a loss term: a function of `LossInputs` that returns the loss of each state, float [B]."""
    return _marked(extension, "loss_term")


def torso(extension: _T) -> _T:
    """Marks a torso: a function that returns a module from observations to [B, features], and its features."""
    return _marked(extension, "torso")


def head(extension: _T) -> _T:
    """Marks a head: a function that returns a module from [B, hidden] to [B, num_actions * atoms]."""
    return _marked(extension, "head")


def exploration(extension: _T) -> _T:
    """Marks an exploration: a function or class that makes an object whose `choose` picks the actions."""
    return _marked(extension, "exploration")


def environment(extension: _T) -> _T:
    """Marks an environment: a class whose objects know its `spec` and `make` lanes of it."""
    return _marked(extension, "environment")


def load_extension(kind: ExtensionKind, reference: str, *, field: str) -> Extension:
    """Loads an extension; this runs code of its module.

    Args:
      kind: what it must be.
      reference: `module:attribute`, or the name of an entry point.
      field: of the configuration, for errors.
    Raises: UserError naming `field` if there is none of that name, or it cannot be loaded or is no such extension.
    """
    module, colon, attribute = reference.partition(":")
    return _of_module(kind, module, attribute, field) if colon else _of_entry_point(kind, reference, field)


def _marked(extension: _T, kind: ExtensionKind) -> _T:
    setattr(extension, _MARK, kind)
    return extension


def _of_module(kind: ExtensionKind, module: str, attribute: str, field: str) -> Extension:
    reference = f"{module}:{attribute}"
    try:
        value: Any = importlib.import_module(module)
    except Exception as error:  # foreign code may raise anything
        problem = f"module {module} cannot be imported ({type(error).__name__}: {error})"
        raise UserError(field, reference, problem, "install it, or put its folder on PYTHONPATH") from error
    for name in attribute.split("."):
        if not hasattr(value, name):
            near = difflib.get_close_matches(name, dir(value), n=1)
            remedy = f"did you mean {near[0]}?" if near else f"define it in {module}"
            raise UserError(field, reference, f"there is no {attribute} in module {module}", remedy)
        value = getattr(value, name)
    if getattr(value, _MARK, None) != kind:
        raise UserError(field, reference, f"is not marked as {_words(kind)}", f"decorate it with @upcycle.{kind}")
    distributions = importlib.metadata.packages_distributions().get(module.partition(".")[0], [])
    found = distributions[0] if distributions else ""
    return Extension(kind, reference, found, importlib.metadata.version(found) if found else "", value)


def _of_entry_point(kind: ExtensionKind, name: str, field: str) -> Extension:
    known = importlib.metadata.entry_points(group=GROUPS[kind])
    found = [entry for entry in known if entry.name == name]
    if len(found) != 1:
        near = difflib.get_close_matches(name, known.names, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "install the distribution that has it"
        if found:
            remedy = f"uninstall all but one of {', '.join(sorted(_origin(entry)[0] for entry in found))}"
        have = "several distributions have" if found else "no installed distribution has"
        raise UserError(field, name, f"{have} this entry point in the group {GROUPS[kind]}", remedy)
    distribution, version = _origin(found[0])
    try:
        value: Any = found[0].load()
    except Exception as error:  # foreign code may raise anything
        problem = f"{found[0].value} of {distribution} {version} cannot be loaded ({type(error).__name__}: {error})"
        raise UserError(field, name, problem, f"mend or reinstall {distribution}") from error
    if not callable(value):
        raise UserError(field, name, f"{found[0].value} cannot be called", f"mend {distribution}")
    return Extension(kind, name, distribution, version, value)


def _origin(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    assert entry.dist is not None, "entry points of installed distributions name them"
    return entry.dist.name, entry.dist.version


def _words(kind: ExtensionKind) -> str:
    name = kind.replace("_", " ")
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
