"""Loss terms that other distributions bring: what they are given, and what they must return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from upcycle.config.run import LossTermConfig, PhaseName, RunConfig
from upcycle.errors import UserError
from upcycle.extensions import Extension, load_extension
from upcycle.networks.q_network import Outputs, QNetwork


@dataclass(frozen=True, slots=True, eq=False)
class LossInputs:
    """What a loss term is made of. B transitions, A actions.

    Attributes:
      observation, next_observation: uint8 [B, stack, H, W] or float32 [B, stack, D].
      action: int64 [B].
      n_step_return, discount: float32 [B]; discount is gamma^n, or 0 where the episode terminated.
      outputs: the student's Q values, float32 [B, A], and logits, of `observation`, with their graph.
      teacher_log_policy: log-probabilities of the teachers' mixture, float32 [B, A]; None where nothing imitates now.
      network, target_network: the student's network and its target.
    """

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    n_step_return: Tensor
    discount: Tensor
    outputs: Outputs
    teacher_log_policy: Tensor | None
    network: QNetwork
    target_network: QNetwork


@dataclass(frozen=True, slots=True, eq=False)
class CustomTerm:
    """A loss term of the configuration, loaded.

    Attributes:
      name: what the configuration calls it.
      is_active: whether the phase has it.
    """

    name: str
    config: LossTermConfig
    extension: Extension
    is_active: bool = True

    def loss(self, inputs: LossInputs) -> Tensor:
        """The loss of each state, float32 [B], unweighted.

        Raises: UserError naming the term if it raises anything or returns something else.
        """
        call: Callable[..., Any] = self.extension.value
        try:
            loss = call(inputs, **self.config.options)
        except Exception as error:  # foreign code may raise anything
            raise self._wrong(f"raised {type(error).__name__}: {error}") from error
        if not isinstance(loss, Tensor):
            raise self._wrong(f"returned {type(loss).__name__} instead of a tensor")
        if loss.shape != inputs.action.shape or not loss.is_floating_point():
            raise self._wrong(f"returned {loss.dtype} {list(loss.shape)} instead of float {list(inputs.action.shape)}")
        return loss

    def _wrong(self, problem: str) -> UserError:
        remedy = "mend it: a loss term returns the loss of each state, float [B]"
        return UserError(f"loss_terms.{self.name}.use", self.config.use, problem, remedy)


def custom_terms(config: RunConfig, phase: PhaseName | None = None) -> tuple[CustomTerm, ...]:
    """The loss terms of a configuration, in its order; those that `phase` lacks are not active.

    Raises: UserError naming the field if one cannot be loaded.
    """
    return tuple(
        CustomTerm(
            name,
            term,
            load_extension("loss_term", term.use, field=f"loss_terms.{name}.use"),
            is_active=term.coefficient > 0 and (phase is None or phase in term.phases),
        )
        for name, term in config.loss_terms.items()
    )


def try_terms(config: RunConfig, network: QNetwork, observation: Tensor, *, num_actions: int) -> None:
    """Calls every term once, with made-up transitions between given observations.

    Args:
      network: takes the part of the student and of its target.
      observation: [B, stack, *frame_shape].
    Raises: UserError naming a term that fails or returns something else.
    """
    zeros = torch.zeros(len(observation))
    inputs = LossInputs(
        observation=observation,
        next_observation=observation,
        action=torch.arange(len(observation)) % num_actions,
        n_step_return=zeros,
        discount=zeros,
        outputs=network.outputs(observation),
        teacher_log_policy=None,
        network=network,
        target_network=network,
    )
    for term in custom_terms(config):
        term.loss(inputs)
