"""Converts between torch modules and the named NumPy arrays of snapshots and teachers."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array


def to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Copies of `tensors` on the host, by name."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous().numpy() for name, tensor in tensors.items()}


def load_into(module: nn.Module, tensors: Mapping[str, Array]) -> None:
    """Overwrites every parameter and buffer of `module`, in place.

    Raises: CorruptDataError if a name is missing or left over, a shape differs or a value is not finite; `module` is
    then unchanged.
    """
    state = cast(Mapping[str, Tensor], module.state_dict())
    if set(state) != set(tensors):
        raise CorruptDataError(f"weights do not fit the network: names differ in {sorted(set(state) ^ set(tensors))}")
    for name, tensor in state.items():
        if tuple(tensor.shape) != tensors[name].shape:
            raise CorruptDataError(
                f"weights do not fit the network: {name} is {tensors[name].shape}, not {tuple(tensor.shape)}"
            )
        if not np.isfinite(tensors[name]).all():
            raise CorruptDataError(f"weights are damaged: {name} holds values that are not finite")
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
