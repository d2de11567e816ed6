"""A teacher in memory: its network, frozen, and nothing that could train it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from teacher_store.action_order import action_order
from teacher_store.records import TeacherRecord
from teacher_store.store import TeacherStore
from upcycle.config import EnvConfig
from upcycle.errors import CorruptDataError
from upcycle.networks import QNetwork, build_network
from upcycle.snapshots import read_snapshot
from upcycle.torch_io import load_into


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A frozen policy.

    Attributes:
      record: what is known about it.
      network: in evaluation mode, without gradients.
      device: where it computes.
      action_index: int64 [A], which of the network's outputs are the student's actions; None where they all are.
    """

    record: TeacherRecord
    network: QNetwork
    device: torch.device
    action_index: Tensor | None = None

    @torch.no_grad()
    def q_values(self, observation: Tensor) -> Tensor:
        """Action values, float32 [B, A] on the teacher's device.

        Args:
          observation: uint8 [B, stack, H, W] or float32 [B, stack, D]; moved to the teacher's device if need be.
        Raises: ValueError if the observation has another shape than the teacher was trained on.
        """
        expected = (self.record.frame_stack, *self.record.frame_shape)
        if tuple(observation.shape[1:]) != expected:
            raise ValueError(f"observation {tuple(observation.shape)}: teacher {self.record.id} sees [B, {expected}]")
        values = self.network(observation.to(self.device, non_blocking=True))
        return values if self.action_index is None else values[:, self.action_index]


def load_teacher(
    record: TeacherRecord,
    store: TeacherStore,
    device: torch.device | str = "cpu",
    *,
    env: EnvConfig | None = None,
    num_actions: int | None = None,
) -> Teacher:
    """Reads a teacher's verified weights.

    Args:
      record: which teacher.
      store: where it lies.
      device: where it is to compute.
      env: the student's environment and protocol, if it is to teach or to act: its values then have the order of the
        actions in there.
      num_actions: size of the student's action set.
    Raises: UserError if it does not fit `env` (task, frame size, stack, actions); CorruptDataError if the weights are
      damaged or do not fit the network of the record.
    """
    if env is not None:
        record.check_agrees(env, num_actions=num_actions)
    path = store.weights_path(record)
    assert record.weights is not None
    assert record.network is not None
    snapshot = read_snapshot(path, sha256=record.weights.sha256)
    try:
        with torch.random.fork_rng(devices=[]):  # drawing weights to be overwritten must not move anybody's generator
            network = build_network(
                record.network,
                frame_shape=record.frame_shape,
                stack=record.frame_stack,
                num_actions=record.num_actions,
            )
    except (ValueError, RuntimeError) as error:
        raise CorruptDataError(f"teacher {record.id}: its record describes no network ({error})") from error
    load_into(network, snapshot.tensors)
    network.to(torch.device(device)).eval().requires_grad_(False)
    order = None if env is None else action_order(record, env)
    index = None if order is None else torch.tensor(order, device=device)
    return Teacher(record, network, torch.device(device), index)
