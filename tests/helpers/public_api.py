"""What the public API looks like: names and signatures, as text."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, cast

from pydantic import BaseModel

import upcycle

MODELS = ("EnvConfig", "NetworkConfig", "RunConfig", "TeacherRecord")
"""Their fields are pinned by `docs/configuration.md` and the records of old stores."""

CONSTRUCTORS = ("ReplayClient",)
"""Classes that are made by calling them; functions make the others."""
_ARRAY = "numpy.ndarray[tuple[typing.Any, ...], numpy.dtype[typing.Any]]"


def public_api() -> dict[str, str]:
    """Every public name, and every public member of a public class, with its signature."""
    found: dict[str, str] = {}
    for name in upcycle.__all__:
        value: Any = getattr(upcycle, name)
        found[name] = _signature(value)
        if isinstance(value, type) and not issubclass(cast(type[object], value), BaseModel | Exception):
            found |= {f"{name}.{member}": text for member, text in _members(cast(type[object], value)).items()}
    return found


def _members(cls: type) -> dict[str, str]:
    return {
        name: "property" if isinstance(member, property) else _signature(member)
        for name, member in inspect.getmembers_static(cls)
        if not name.startswith("_") or (name in ("__len__", "__iter__") and name in vars(cls))
        if isinstance(member, property) or callable(member)
    }


def _signature(value: Any) -> str:
    if isinstance(value, str):
        return "str"
    if isinstance(value, type):
        cls = cast(type[object], value)
        if issubclass(cls, BaseModel | Exception):
            return "model" if issubclass(cls, BaseModel) else "exception"
        if not is_dataclass(cls) and cls.__name__ not in CONSTRUCTORS:
            return "class"
    text = str(inspect.signature(cast(Callable[..., object], value))).replace(_ARRAY, "Array")
    return re.sub(r"(?<![\w.])(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)  # wherever the types live


if __name__ == "__main__":
    for public_name, signature in public_api().items():
        print(f"    {json.dumps(public_name)}: {json.dumps(signature)},")
