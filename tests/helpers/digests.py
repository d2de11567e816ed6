"""Digests of arrays and of nested state, the same wherever and by whichever version of Upcycle they are computed."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray


def digest_of_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digest_of_state(state: Mapping[str, object]) -> str:
    """SHA-256 over everything in a checkpoint: its tensors, and the `repr` of its other values."""
    return digest_of_arrays(dict(_leaves("", state)))


def _leaves(name: str, value: object) -> Iterator[tuple[str, NDArray[np.generic]]]:
    if isinstance(value, torch.Tensor):
        yield name, value.numpy()
    elif isinstance(value, Mapping):
        for key, inner in cast(Mapping[object, object], value).items():
            yield from _leaves(f"{name}/{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(cast(list[object], value)):
            yield from _leaves(f"{name}/{index}", inner)
    else:
        yield name, np.frombuffer(repr(value).encode(), np.uint8)
