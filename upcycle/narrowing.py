"""What a value that comes from outside is: `isinstance`, with the types of what is inside.

A type checker takes `isinstance(value, dict)` for a dict of unknown types. Readers of JSON, pickles and msgpack hold
every value as `object` and narrow it with these before they use it.
"""

import json
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray


def is_dict(value: object) -> TypeGuard[dict[object, object]]:
    """Whether it is a dict."""
    return isinstance(value, dict)


def is_named(value: object) -> TypeGuard[dict[str, object]]:
    """Whether it is a dict whose keys are all text, as a JSON object is."""
    return is_dict(value) and all(isinstance(key, str) for key in value)


def is_list(value: object) -> TypeGuard[list[object]]:
    """Whether it is a list."""
    return isinstance(value, list)


def is_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    """Whether it is a tuple."""
    return isinstance(value, tuple)


def is_sequence(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Whether it is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_set(value: object) -> TypeGuard[set[object]]:
    """Whether it is a set that can change."""
    return isinstance(value, set)


def is_array(value: object) -> TypeGuard[NDArray[Any]]:
    """Whether it is a NumPy array."""
    return isinstance(value, np.ndarray)


def parse_json(data: bytes | str) -> object:
    """The value of a JSON text. Raises: ValueError, RecursionError."""
    return json.loads(data)
