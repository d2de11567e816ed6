"""Torsos and heads that other distributions bring."""

from typing import Any

from torch import nn

from upcycle.config.run import NetworkConfig
from upcycle.errors import UserError
from upcycle.extensions import load_extension


def custom_torso(config: NetworkConfig, *, frame_shape: tuple[int, ...], stack: int) -> tuple[nn.Module, int]:
    """The torso that `config` names, and its number of features.

    It maps float32 [B, stack, *frame_shape], images scaled to [0, 1], to [B, features].
    Raises: UserError if it cannot be loaded, fails, or is no torso.
    """
    field, reference = "network.custom_torso", config.custom_torso
    built = _built("torso", field, reference, stack=stack, frame_shape=frame_shape, **config.torso_options)
    match built:
        case (nn.Module() as torso, int(features)) if features > 0:
            return torso, features
        case _:
            problem = f"returned {type(built).__name__} instead of a module and its number of features"
            raise UserError(field, reference, problem, "mend it: return (module, features)")


def custom_head(config: NetworkConfig, *, num_actions: int, atoms: int) -> nn.Module:
    """The last layers that `config` names: [B, hidden] to [B, num_actions * atoms], index a * atoms + j.

    Raises: UserError if they cannot be loaded, fail, or are no module.
    """
    field, reference = "network.custom_head", config.custom_head
    options: dict[str, Any] = {"hidden": config.hidden, "num_actions": num_actions, "atoms": atoms}
    built = _built("head", field, reference, **options, **config.head_options)
    if not isinstance(built, nn.Module):
        problem = f"returned {type(built).__name__} instead of a module"
        raise UserError(field, reference, problem, "mend it: return a torch.nn.Module")
    return built


def _built(kind: Any, field: str, reference: str, **options: Any) -> object:
    build = load_extension(kind, reference, field=field).value
    try:
        return build(**options)
    except Exception as error:  # foreign code may raise anything
        problem = f"raised {type(error).__name__}: {error}"
        raise UserError(field, reference, problem, "mend it, or its options") from error
