"""A pretrained encoder: where a run's torso comes from, whether it is the student's, and its weights.

encoder.init_from --> checked before the run exists --> manifest --> read, verified, by the learner that begins
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import ValidationError

from actors.lanes import EnvSpec
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from upcycle.config.run import EnvConfig, NetworkConfig, RunConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import sha256_of
from upcycle.networks.q_network import build_network
from upcycle.runs.run_folder import Record
from upcycle.runs.snapshots import Snapshot, Tensors, read_snapshot

_SUFFIX: Final = ".safetensors"
_TORSO: Final = "torso."
_FIELD: Final = "encoder.init_from"


@dataclass(frozen=True, slots=True)
class Encoder:
    """A weight file whose torso is the student's.

    Attributes:
      record: the teacher that it is of; None of a file of its own.
      path: the weight file.
      sha256: of its bytes.
      store: path or URL of the store that the teacher lies in.
    """

    record: TeacherRecord | None
    path: Path
    sha256: str
    store: str = ""

    def to_manifest(self) -> Record:
        """What the learner reads it by, on any machine, and what the run's teacher remembers of it."""
        if self.record is None:
            return {"id": None, "path": str(self.path.resolve()), "sha256": self.sha256}
        return {"id": self.record.id, "store": self.store, "sha256": self.sha256}


def find_encoder(config: RunConfig, spec: EnvSpec, store: TeacherStore) -> Encoder | None:
    """The encoder that a run is to begin with; None if it draws its own.

    Raises: UserError if there is none of that name, or its torso is not the student's; CorruptDataError if its file is
      damaged.
    """
    name = config.encoder.init_from
    if not name:
        return None
    if not name.endswith(_SUFFIX):
        record = store.get(name)
        encoder = _of_teacher(config, spec, record, store)
    else:
        path = Path(name)
        if not path.is_file():
            remedy = f"give a file, or the name of a teacher without {_SUFFIX}"
            raise UserError(_FIELD, name, "there is no such file", remedy)
        encoder = Encoder(None, path, sha256_of(path))
    snapshot = read_snapshot(encoder.path, sha256=encoder.sha256)
    if encoder.record is None:
        _check_metadata(config, name, snapshot)
    _check_shapes(config, spec, name, _torso_of(snapshot))
    return encoder


def read_torso(known: Record) -> Tensors:
    """The torso's weights, by the names that they have in it.

    Args:
      known: `Encoder.to_manifest`.
    Raises: CorruptDataError if the file is gone or not what it was; UserError if the teacher is.
    """
    if known["id"] is None:
        path = Path(known["path"])
    else:
        store = TeacherStore(str(known["store"]))
        path = store.weights_path(store.get(str(known["id"])))
    return _torso_of(read_snapshot(path, sha256=str(known["sha256"])))


def _torso_of(snapshot: Snapshot) -> Tensors:
    return {name.removeprefix(_TORSO): tensor for name, tensor in snapshot.tensors.items() if name.startswith(_TORSO)}


def _of_teacher(config: RunConfig, spec: EnvSpec, record: TeacherRecord, store: TeacherStore) -> Encoder:
    if record.network is None or record.weights is None:
        problem = f"has no network: it is {record.describe_policy()}"
        raise UserError(_FIELD, record.id, problem, "choose a teacher that has one")
    _check_network(config, record.id, record.network)
    if record.frame_shape != spec.frame_shape:
        image = len(spec.frame_shape) == len(record.frame_shape) == 2
        field, here = ("env.frame_size", spec.frame_shape[0]) if image else ("env.task", config.env.task)
        remedy = f"set env.frame_size={record.frame_shape[0]}" if image else f"give a task as {record.env.task} is"
        _refuse(field, here, f"{record.id} sees frames of {record.frame_shape}", remedy)
    if record.frame_stack != spec.stack:
        problem = f"{record.id} sees {record.frame_stack} frames"
        _refuse("env.frame_stack", spec.stack, problem, f"set env.frame_stack={record.frame_stack}")
    return Encoder(record, store.weights_path(record), record.weights.sha256, store.location)


def _check_metadata(config: RunConfig, name: str, snapshot: Snapshot) -> None:
    """What the policy versions of our own runs say of themselves; a file of other origin has its shapes alone."""
    found = snapshot.metadata
    try:
        network = NetworkConfig.model_validate_json(found["network"]) if "network" in found else None
        env = EnvConfig.model_validate_json(found["env"]) if "env" in found else None
    except ValidationError as error:
        raise CorruptDataError(f"{name}: its header describes no network or no environment") from error
    if network is not None:
        _check_network(config, name, network)
    if env is not None and network is not None and network.kind != "mlp" and env.frame_size != config.env.frame_size:
        problem = f"{name} sees frames of {env.frame_size}"
        _refuse("env.frame_size", config.env.frame_size, problem, f"set env.frame_size={env.frame_size}")


def _check_network(config: RunConfig, name: str, network: NetworkConfig) -> None:
    """Raises UserError for the first field of the student's network that makes another torso of it."""
    fields = ("kind", "hidden", "noisy") if network.kind == "mlp" else ("kind", "width", "padding")
    for field in (*fields, "custom_torso", "torso_options"):
        mine, theirs = getattr(network, field), getattr(config.network, field)
        if mine != theirs:
            _refuse(f"network.{field}", theirs, f"the torso of {name} has {mine!r}", f"set network.{field}={mine}")


def _check_shapes(config: RunConfig, spec: EnvSpec, name: str, torso: Tensors) -> None:
    with torch.device("meta"):  # shapes alone, no weights
        student = build_network(
            config.network, frame_shape=spec.frame_shape, stack=spec.stack, num_actions=spec.num_actions
        )
    expected = {tensor_name: tuple(tensor.shape) for tensor_name, tensor in student.torso.state_dict().items()}
    found = {tensor_name: tensor.shape for tensor_name, tensor in torso.items()}
    differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if differing:
        key = differing[0]
        problem = f"its {_TORSO}{key} is {found.get(key, 'missing')}, the student's {expected.get(key, 'missing')}"
        remedy = "set network.kind, network.width, network.padding and env.frame_stack as it was trained with"
        raise UserError(_FIELD, name, problem, remedy)
    for key, tensor in torso.items():
        if not np.isfinite(tensor).all():
            raise CorruptDataError(f"{name}: {_TORSO}{key} holds values that are not finite")


def _refuse(field: str, value: Any, problem: str, remedy: str) -> None:
    raise UserError(field, value, f"{_FIELD}: {problem}", f"{remedy}, or choose another encoder")
