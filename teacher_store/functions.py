"""Policies that are Python callables of installed distributions, found by entry points in the group `upcycle.teachers`.

    [project.entry-points."upcycle.teachers"]
    my-policy = "my_package:policy"

The object is called with a batch of observations, uint8 [B, stack, H, W] or float32 [B, 1, D], and returns float
[B, A]: action values, or the probabilities of the actions. A class is called without arguments first, once in each
process. Its attributes say what it is: `kind` ("q_values" or "probabilities"), and if it has them `cacheable` (equal
observations always get equal values, whatever else is in the batch; by default not) and `actions` (the meaning of each
action, in order).
"""

import difflib
import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from teacher_store.records.record import Function, TeacherKind
from upcycle.errors import UserError
from upcycle.experience.chunks import Array

GROUP: Final = "upcycle.teachers"
_KINDS: Final[tuple[TeacherKind, ...]] = ("q_values", "probabilities")
_SUM_TOLERANCE: Final = 1e-3
_LEAST_PROBABILITY: Final = float(np.finfo(np.float32).tiny)  # so that its logarithm is finite


@dataclass(frozen=True, slots=True, eq=False)
class PolicyFunction:
    """A loaded callable.

    Attributes:
      entry_point, distribution, version: where it is from.
      call: the callable itself.
      kind: what it returns.
      cacheable: equal observations always get equal values.
      actions: meaning of each action, in order; empty where it does not say.
    """

    entry_point: str
    distribution: str
    version: str
    call: Callable[[Array], object]
    kind: TeacherKind
    cacheable: bool = False
    actions: tuple[str, ...] = ()

    def values(self, observation: Array, num_actions: int) -> Array:
        """Action values, or log-probabilities of a callable that gives probabilities, float32 [B, A].

        Raises: UserError, naming the entry point, if it raises anything, or returns another shape, no floating-point
          numbers, values that are not finite, or rows that are no probabilities.
        """
        try:
            values = np.asarray(self.call(observation.copy()))  # it may write into what it is given
        except Exception as error:  # foreign code may raise anything
            raise self.wrong(f"raised {type(error).__name__}: {error}") from error
        expected = (len(observation), num_actions)
        if values.shape != expected or values.dtype.kind != "f":
            raise self.wrong(f"returned {values.dtype} {list(values.shape)} instead of float {list(expected)}")
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise self.wrong("returned values that are not finite")
        if self.kind == "q_values":
            return values
        if (values < 0).any() or not np.allclose(values.sum(axis=1), 1.0, rtol=0, atol=_SUM_TOLERANCE):
            raise self.wrong("returned no probabilities: they are >= 0, and those of each row sum to 1")
        return np.log(np.maximum(values, _LEAST_PROBABILITY))

    def describe(self, *, seconds_per_state: float) -> Function:
        """The entry of a teacher's record about it."""
        return Function(
            entry_point=self.entry_point,
            distribution=self.distribution,
            version=self.version,
            cacheable=self.cacheable,
            seconds_per_state=seconds_per_state,
        )

    def wrong(self, problem: str) -> UserError:
        """What is to be raised when it does what it must not."""
        remedy = "mend it, install the mended version and register it again"
        return UserError("function", f"{self.entry_point} of {self.distribution} {self.version}", problem, remedy)


def find_function(
    entry_point: str, *, kind: TeacherKind | None = None, cacheable: bool | None = None
) -> PolicyFunction:
    """Loads the callable of an entry point; this runs code of its distribution.

    Args:
      entry_point: its name.
      kind: what it returns, if it does not say so itself, or against what it says.
      cacheable: as `kind`.
    Raises: UserError if there is none or several of that name, it cannot be loaded, is not callable or of no kind.
    """
    known = importlib.metadata.entry_points(group=GROUP)
    found = [entry for entry in known if entry.name == entry_point]
    if len(found) != 1:
        near = difflib.get_close_matches(entry_point, known.names, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "install the distribution that has it"
        if found:
            remedy = f"uninstall all but one of {', '.join(sorted(_distribution(entry)[0] for entry in found))}"
        problem = (
            f"{'several have' if found else 'no installed distribution has'} this entry point in the group {GROUP}"
        )
        raise UserError("function", entry_point, problem, remedy)
    (entry,) = found
    distribution, version = _distribution(entry)
    try:
        loaded: object = entry.load()
        loaded = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # foreign code may raise anything
        problem = f"{entry.value} of {distribution} {version} cannot be loaded ({type(error).__name__}: {error})"
        raise UserError("function", entry_point, problem, f"mend or reinstall {distribution}") from error
    if not callable(loaded):
        raise UserError("function", entry_point, f"{entry.value} cannot be called", f"mend {distribution}")
    says = kind or getattr(loaded, "kind", None)
    if says not in _KINDS:
        problem = f"{entry.value} does not say what it returns (its attribute kind is {says!r})"
        raise UserError("function", entry_point, problem, "give --kind q_values or --kind probabilities")
    return PolicyFunction(
        entry_point,
        distribution,
        version,
        loaded,
        says,
        bool(getattr(loaded, "cacheable", False)) if cacheable is None else cacheable,
        tuple(map(str, getattr(loaded, "actions", ()))),
    )


def load_function(function: Function, kind: TeacherKind) -> PolicyFunction:
    """The callable of a teacher's record.

    Raises: UserError as `find_function`, or if it is of another distribution or version than it was registered from.
    """
    found = find_function(function.entry_point, kind=kind, cacheable=function.cacheable)
    if (found.distribution, found.version) != (function.distribution, function.version):
        raise UserError(
            "function",
            function.entry_point,
            f"is of {found.distribution} {found.version}, was registered from "
            f"{function.distribution} {function.version}: it may play differently",
            f"install {function.distribution}=={function.version}, or register it under a new name",
        )
    return found


def digest_of_function(function: Function, kind: TeacherKind) -> str:
    """SHA-256 that another callable, or another version, would not have."""
    parts = (function.entry_point, function.distribution, function.version, kind)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _distribution(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of who has the entry point."""
    assert entry.dist is not None, "entry points of installed distributions name them"
    return entry.dist.name, entry.dist.version
