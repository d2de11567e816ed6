"""What CleanRL's agents have in common in every framework: protocol, names of files, command line."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from teacher_store.importers.formats import checkpoints
from teacher_store.importers.formats.atari_wrappers import FIRE, FRAME_SKIP, PROTOCOL
from teacher_store.importers.imported import EnvFields, ImportedAgent, Request
from teacher_store.importers.layers.network_shapes import MAX_ATOMS, Support, Weights
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.records.record import TeacherKind
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_named

FRAME_SHAPE: Final = (84, 84)
MAX_FILES: Final = 5_000
_NUMBER: Final = re.compile(r"-offline-([0-9]{1,9})\.cleanrl_model$")
"""Of what QDagger saves while it still learns from its teacher."""
_FRAME_STACK: Final = 4
_MAX_FACT: Final = 200
_PROTOCOL: Final[EnvFields] = {
    **PROTOCOL,
    "frame_size": FRAME_SHAPE[0],
    "frame_stack": _FRAME_STACK,
    "stack_fill": "first_frame",
}
_DIFFERENCES: Final = (
    "CleanRL pools and resizes frames in colour and turns them grey last; EnvPool pools and resizes grey ones.",
    f"CleanRL {FIRE}",
)
_FACTS: Final = ("env_id", "exp_name", "seed", "total_timesteps", "gamma")
"""Of the command line."""


def choose(source: SourceFiles, names: Iterable[str], request: Request) -> str:
    """The model that is asked for, else the one that was saved last. Raises: UserError if that is not known."""
    return checkpoints.choose_last(source, checkpoints.numbered(source, names, _NUMBER), request)


def read_arguments(values: Mapping[str, object], where: str) -> dict[str, object]:
    """The command line, where a model keeps it: C51 agents do. Raises: CorruptDataError."""
    if "model_weights" not in values:
        return {}
    arguments = values.get("args")
    if not is_named(arguments):
        raise CorruptDataError(f"{where}: args is no map")
    return arguments


def support_of(arguments: Mapping[str, object], where: str) -> Support | None:
    """The atoms of a C51 agent, from its command line; None of an agent that keeps none.

    Raises: CorruptDataError if it has no atoms, UserError if they are not around 0.
    """
    if not arguments:
        return None
    atoms, low, high = (arguments.get(name) for name in ("n_atoms", "v_min", "v_max"))
    if type(atoms) is not int or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise CorruptDataError(f"{where}: args has no n_atoms, v_min and v_max of a C51 agent")
    if not 2 <= atoms <= MAX_ATOMS:
        raise CorruptDataError(f"{where}: args has n_atoms = {atoms}, not 2 to {MAX_ATOMS}")
    if low != -high or not 0 < high < 1e9:
        problem = f"has a support from {low} to {high}"
        raise UserError("PATH", where, problem, "supported are those that lie evenly around 0")
    return Support(atoms, float(high))


def agent(
    weights: Weights, arguments: Mapping[str, object], *, where: str, sha256: str, kind: TeacherKind = "q_values"
) -> ImportedAgent:
    """The agent that has these weights. Raises: CorruptDataError if it does not see what CleanRL's agents see.

    Args:
      arguments: of its command line; empty if it keeps none.
      where: names the file in errors.
      sha256: of the file.
      kind: what its outputs are.
    """
    if weights.frame_stack != _FRAME_STACK:
        raise CorruptDataError(f"{where}: a network of {weights.frame_stack} frames; CleanRL's see {_FRAME_STACK}")
    steps = arguments.get("total_timesteps")
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=FRAME_SHAPE,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol=_PROTOCOL,
        sha256=sha256,
        kind=kind,
        differences=_DIFFERENCES,
        env_frames=steps * FRAME_SKIP if type(steps) is int and 0 <= steps < 2**48 else None,
        facts={
            key: str(arguments[key])[:_MAX_FACT] for key in _FACTS if isinstance(arguments.get(key), str | int | float)
        },
    )
