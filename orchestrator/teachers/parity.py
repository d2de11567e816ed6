"""Whether imported weights compute what their own framework computed."""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from actors.lanes import EnvSpec
from teacher_store.importers.imported import ImportedAgent
from teacher_store.importers.readers.reference import read_reference
from teacher_store.records.record import Parity, TeacherKind
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import QNetwork, build_network
from upcycle.networks.torch_io import load_into

TOLERANCE: Final = 1e-4
"""The largest difference of two frameworks' values that rounding explains, relative to the largest value."""


def network_of(agent: ImportedAgent, spec: EnvSpec, *, where: str) -> QNetwork:
    """The agent's network with its weights, as it sees the environment.

    Raises: CorruptDataError, naming `where`, if a tensor is missing, left over, of another shape or not finite.
    """
    try:
        network = build_network(
            agent.network, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=agent.num_actions
        )
    except ValueError as error:
        raise UserError("env.frame_size", spec.frame_shape, str(error), "give the size it was trained with") from error
    try:
        load_into(network, agent.tensors)
    except CorruptDataError as error:
        raise CorruptDataError(f"{where}: {error}") from error
    return network.eval()


def check_parity(network: QNetwork, reference: Path, kind: TeacherKind = "q_values") -> Parity:
    """Compares the network's outputs with those in an .npz file.

    Args:
      kind: of an agent that gives probabilities, their logarithms are compared: logits may differ by a constant.
      reference: holds `observations`, uint8 [B, stack, H, W] or float32 [B, 1, D], and what the original framework
        makes of them, `q_values`, float [B, A]: action values, or logits of the kind "probabilities".
    Raises: UserError if they differ by more than `TOLERANCE`; CorruptDataError if the file is none of these.
    """
    observations, expected, sha256 = read_reference(reference)
    with torch.inference_mode():
        values = network(torch.from_numpy(observations))
        if kind == "probabilities":
            values = torch.log_softmax(values, dim=1)
            expected = torch.log_softmax(torch.from_numpy(expected), dim=1).numpy()
        found = values.numpy()
    if found.shape != expected.shape:
        problem = f"holds values of shape {expected.shape}, the network gives {found.shape}"
        raise UserError("--reference", str(reference), problem, "compute them for this agent")
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        problem = f"differs from the imported weights' values by up to {difference:.3g}"
        remedy = "check the format, the order of frames (oldest first) and their scale (uint8, 0 to 255)"
        raise UserError("--reference", str(reference), problem, remedy)
    return Parity(observations=len(found), largest_difference=difference, reference=sha256)
