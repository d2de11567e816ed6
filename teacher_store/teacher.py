"""A teacher in memory: its network, frozen, or its callable, and nothing that could train it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from teacher_store.functions import PolicyFunction, load_function
from teacher_store.records.action_order import action_order, check_agrees
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.config.extension_use import need_extensions
from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import load_into
from upcycle.runs.snapshots import read_snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A frozen policy.

    Attributes:
      record: what is known about it.
      policy: its network, in evaluation mode and without gradients, or the callable that it is.
      device: where it computes.
      action_index: int64 [A], which of its outputs are the student's actions; None where they all are.
    """

    record: TeacherRecord
    policy: QNetwork | PolicyFunction
    device: torch.device
    action_index: Tensor | None = None

    @property
    def network(self) -> QNetwork:
        """Its network, of a teacher that is known to have one."""
        assert isinstance(self.policy, QNetwork), f"teacher {self.record.id} has no network"
        return self.policy

    @torch.no_grad()
    def values(self, observation: Tensor) -> Tensor:
        """What it thinks of each action, float32 [B, A] on the teacher's device.

        Action values, or log-probabilities of a teacher that gives probabilities: the largest is its best action, and
        the softmax, of action values at some temperature, is its policy.

        Args:
          observation: uint8 [B, stack, H, W] or float32 [B, stack, D]; moved to the teacher's device if need be.
        Raises: ValueError if the observation has another shape than the teacher was trained on; UserError if it is a
          callable that fails.
        """
        expected = (self.record.frame_stack, *self.record.frame_shape)
        if tuple(observation.shape[1:]) != expected:
            raise ValueError(f"observation {tuple(observation.shape)}: teacher {self.record.id} sees [B, {expected}]")
        if isinstance(self.policy, PolicyFunction):
            found = self.policy.values(observation.cpu().numpy(), self.record.num_actions)
            values = torch.from_numpy(found).to(self.device)
        else:
            values = self.policy(observation.to(self.device, non_blocking=True))
        if self.action_index is not None:
            values = values[:, self.action_index]
        return functional.log_softmax(values, dim=1) if self.record.kind == "probabilities" else values


def load_teacher(
    record: TeacherRecord,
    store: TeacherStore,
    device: torch.device | str = "cpu",
    *,
    env: EnvConfig | None = None,
    num_actions: int | None = None,
) -> Teacher:
    """Reads a teacher's verified weights, or loads its callable.

    Args:
      record: which teacher.
      store: where it lies.
      device: where it is to compute.
      env: the student's environment and protocol, if it is to teach or to act: its values then have the order of the
        actions in there.
      num_actions: size of the student's action set.
    Raises: UserError if it does not fit `env` (task, frame size, stack, actions), is no policy, or its callable is not
      the one that was registered; CorruptDataError if the weights are damaged or do not fit the network of the record.
    """
    if env is not None:
        check_agrees(record, env, num_actions=num_actions)
    order = None if env is None else action_order(record, env)
    index = None if order is None else torch.tensor(order, device=device)
    if record.function is not None:
        return Teacher(record, load_function(record.function, record.kind), torch.device(device), index)
    need_extensions(
        [known for known in record.extensions if known.kind != "environment"], owner="teacher", name=record.id
    )
    path = store.weights_path(record)
    assert record.weights is not None
    snapshot = read_snapshot(path, sha256=record.weights.sha256)
    with torch.random.fork_rng(devices=[]):  # drawing weights to be overwritten must not move anybody's generator
        network = build_described_network(record)
    load_into(network, snapshot.tensors)
    network.to(torch.device(device)).eval().requires_grad_(False)
    return Teacher(record, network, torch.device(device), index)


def build_described_network(record: TeacherRecord) -> QNetwork:
    """The network of a teacher that has one, with fresh weights.

    Raises: CorruptDataError if the record describes none that can be; UserError if an extension is missing.
    """
    assert record.network is not None
    try:
        return build_network(
            record.network, frame_shape=record.frame_shape, stack=record.frame_stack, num_actions=record.num_actions
        )
    except UserError:
        raise
    except (ValueError, RuntimeError, OverflowError, TypeError) as error:  # TypeError: torch, of sizes beyond 64 bits
        raise CorruptDataError(f"teacher {record.id}: its record describes no network ({error})") from error
