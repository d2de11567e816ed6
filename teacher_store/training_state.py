"""What a teacher's training had come to: networks and optimizer, in one safetensors file beside its weights.

    online/<name>   target/<name>   optimizer/<parameter>/<state>      metadata: optimizer, learner_steps

Its students play and learn from the weights; this file is for those that go on as the teacher (fine-tuning with a
restored optimizer). It is of the run's newest checkpoint, while the weights are of the version that scored best.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from teacher_store.records.record import OptimizerKind, TrainingState
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array
from upcycle.files import sha256_of
from upcycle.runs.snapshots import Snapshot, Tensors, read_snapshot, write_snapshot

_PARTS: Final = ("online", "target", "optimizer")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingArrays:
    """Everything a gradient step changes, as arrays.

    Attributes:
      online, target: weights by parameter name.
      optimizer: by parameter name, the arrays that the optimizer keeps of it by their names; scalars have no axis.
      kind: which optimizer.
      learner_steps: gradient steps behind it.
    """

    online: Tensors
    target: Tensors
    optimizer: dict[str, Tensors]
    kind: OptimizerKind
    learner_steps: int


def write_training_state(path: Path, arrays: TrainingArrays) -> TrainingState:
    """Writes the file, atomically, and returns its description. Raises: UserError if the disk is full."""
    flat = {f"online/{name}": array for name, array in arrays.online.items()}
    flat |= {f"target/{name}": array for name, array in arrays.target.items()}
    for parameter, states in arrays.optimizer.items():
        flat |= {f"optimizer/{parameter}/{name}": array for name, array in states.items()}
    write_snapshot(path, flat, {"optimizer": arrays.kind, "learner_steps": str(arrays.learner_steps)})
    return describe_training_state(path)


def describe_training_state(path: Path) -> TrainingState:
    """The entry of a teacher's record about the file. Raises: CorruptDataError if it is none of these files."""
    sha256 = sha256_of(path)
    arrays = _unpack(path, read_snapshot(path, sha256=sha256))
    return TrainingState(
        sha256=sha256, bytes=path.stat().st_size, optimizer=arrays.kind, learner_steps=arrays.learner_steps
    )


def read_training_state(path: Path, state: TrainingState) -> TrainingArrays:
    """Reads a training state and compares it with its entry in a record.

    Raises: CorruptDataError naming the file if it is damaged.
    """
    arrays = _unpack(path, read_snapshot(path, sha256=state.sha256))
    if (arrays.kind, arrays.learner_steps) != (state.optimizer, state.learner_steps):
        raise CorruptDataError(f"{path}: is of {arrays.kind} after {arrays.learner_steps} steps, its record says else")
    return arrays


def _unpack(path: Path, snapshot: Snapshot) -> TrainingArrays:
    parts: dict[str, dict[str, Array]] = {name: {} for name in _PARTS}
    for name, array in snapshot.tensors.items():
        part, _, rest = name.partition("/")
        if part not in parts or not rest:
            raise CorruptDataError(f"{path}: {name!r} is of no part of a training state")
        parts[part][rest] = array
    optimizer: dict[str, Tensors] = {}
    for name, array in parts["optimizer"].items():
        parameter, _, state = name.rpartition("/")
        optimizer.setdefault(parameter, {})[state] = array
    kind = next((kind for kind in get_args(OptimizerKind) if kind == snapshot.metadata.get("optimizer")), None)
    steps = snapshot.metadata.get("learner_steps", "")
    if kind is None or not steps.isdecimal():
        raise CorruptDataError(f"{path}: its header names no optimizer or no learner steps")
    return TrainingArrays(parts["online"], parts["target"], optimizer, kind, int(steps))
