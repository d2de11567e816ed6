"""Converts between the training state of a checkpoint and the arrays that a teacher stores."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from teacher_store.records.record import OptimizerKind
from teacher_store.training_state import TrainingArrays
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.networks.torch_io import to_numpy


def to_training_arrays(state: Mapping[str, Any], network: nn.Module, kind: OptimizerKind) -> TrainingArrays:
    """`TrainState.state_dict`, with parameters by name instead of by number.

    Args:
      state: of `TrainState`.
      network: of the same architecture; only its parameter names are used.
      kind: of the optimizer.
    """
    names = [name for name, _ in network.named_parameters()]
    states: Mapping[int, Mapping[str, Tensor]] = state["optimizer"]["state"]
    optimizer = {names[number]: to_numpy(tensors) for number, tensors in states.items()}
    return TrainingArrays(
        online=to_numpy(state["online_network"]),
        target=to_numpy(state["target_network"]),
        optimizer=optimizer,
        kind=kind,
        learner_steps=int(state["learner_steps"]),
    )


def to_train_state(arrays: TrainingArrays, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Inverse of `to_training_arrays`, for `TrainState.load_state_dict`.

    Learning rate and other settings are the new optimizer's: a teacher is fine-tuned at the run's own rate.

    Args:
      arrays: of the teacher.
      network: of the student, whose parameters `optimizer` has, in their order.
      optimizer: of the student, of the kind `arrays.kind`.
    Raises: CorruptDataError if names or shapes differ from those of `network`, or a value is not finite.
    """
    state: Mapping[str, Tensor] = network.state_dict()
    for part in (arrays.online, arrays.target):
        if set(part) != set(state):
            raise CorruptDataError(
                f"training state does not fit the network: names differ in {sorted(set(part) ^ set(state))}"
            )
        for name, array in part.items():
            _check(name, array, tuple(state[name].shape))
    numbers = {name: number for number, (name, _) in enumerate(network.named_parameters())}
    if unknown := set(arrays.optimizer) - set(numbers):
        raise CorruptDataError(f"training state does not fit the network: the optimizer knows {sorted(unknown)}")
    for parameter, arrays_of in arrays.optimizer.items():
        for name, array in arrays_of.items():
            _check(f"{name} of {parameter}", array, *{(), tuple(state[parameter].shape)})
    return {
        "online_network": _tensors(arrays.online),
        "target_network": _tensors(arrays.target),
        "optimizer": {
            "state": {numbers[name]: _tensors(of_parameter) for name, of_parameter in arrays.optimizer.items()},
            "param_groups": optimizer.state_dict()["param_groups"],
        },
        "learner_steps": arrays.learner_steps,
    }


def _check(name: str, array: Array, *shapes: tuple[int, ...]) -> None:
    if array.shape not in shapes:
        raise CorruptDataError(f"training state does not fit the network: {name} is {array.shape}, not {shapes[-1]}")
    if not bool(torch.isfinite(torch.from_numpy(array)).all()):
        raise CorruptDataError(f"training state is damaged: {name} holds values that are not finite")


def _tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
