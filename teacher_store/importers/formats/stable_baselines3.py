"""Models of Stable-Baselines3: zip archives as `save` writes them, of DQN and of policies such as PPO's.

`policy.pth` holds the state dict, `data` the settings as JSON. What JSON cannot say stands there as pickles in base64,
which are never decoded; numbers, and what is written beside the pickles for people, are all that is read. The
optimizer's state and `pytorch_variables.pth` are left alone. Source: Stable-Baselines3 2.9.2, `common/save_util.py`,
`common/policies.py`, `common/torch_layers.py` and `common/atari_wrappers.py`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from teacher_store.importers.formats import checkpoints
from teacher_store.importers.formats.atari_wrappers import FIRE, FRAME_SKIP, PROTOCOL
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.layers.torch_weights import Layout, choose_layout, convert, named
from teacher_store.importers.layers.torch_wrappers import unwrapped
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.readers.stored_zip import LOCAL_MAGIC, StoredZip
from teacher_store.importers.readers.torch_file import read_torch_file
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_list, is_named, parse_json

_DATA: Final = "data"
_POLICY: Final = "policy.pth"
_VERSION: Final = "_stable_baselines3_version"
_MAX_DATA_BYTES: Final = 64 << 20
"""Beside its settings it has the last observation of every environment, and the bounds of each pixel, in base64."""
_MAX_FILES: Final = 5_000
_NUMBER: Final = re.compile(r"_([0-9]{1,12})_steps(?:\.zip)?$")
"""Of what `CheckpointCallback` saves."""


def _layers(extractor: str, head: str, *others: str) -> Layout:
    """A network with the features of `NatureCNN` and nothing between them and its outputs."""
    convolutions = tuple(f"{extractor}.cnn.{place}" for place in (0, 2, 4))
    return Layout("nature", convolutions, f"{extractor}.linear.0", head, others)


_DQN: Final = _layers("q_net.features_extractor", "q_net.q_net.0", "q_net_target.")
_OLD_POLICY: Final = _layers("features_extractor", "action_net", "value_net.")
"""Before version 1.7, when policy and value always had their features in common."""
_POLICY_LAYERS: Final = _layers(
    "pi_features_extractor", "action_net", "value_net.", "features_extractor.", "vf_features_extractor."
)
_FRAME: Final = 84
_DIFFERENCES: Final = (
    "Stable-Baselines3 pools frames in colour, and then turns them grey and resizes them; EnvPool pools grey ones.",
    f"Stable-Baselines3 {FIRE}",
)
_ASSUMED: Final = "trained under AtariWrapper's defaults and VecFrameStack; the file does not say"
_FACTS: Final = ("gamma", "seed", "learning_rate", "target_update_interval", "n_envs", "n_steps", "_total_timesteps")


def _models(source: SourceFiles) -> Iterator[str]:
    for name in source.names()[:_MAX_FILES]:
        with source.open(name) as file:
            if file.read(len(LOCAL_MAGIC)) != LOCAL_MAGIC:
                continue
            try:
                names = StoredZip(file, "").names()
            except CorruptDataError:
                continue
            if {_DATA, _POLICY} <= set(names):
                yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    numbers = checkpoints.numbered(source, _models(source), _NUMBER)
    name = checkpoints.choose_last(source, numbers, request)
    where = str(source.locate(name))
    with source.open(name) as opened:
        archive = StoredZip(opened, where)
        data = _settings(archive.read(_DATA, limit=_MAX_DATA_BYTES), f"{where}: {_DATA}")
        file = read_torch_file(archive.read(_POLICY), f"{where}: {_POLICY}")
        version = archive.read(_VERSION, limit=64) if _VERSION in archive.names() else b""
    _check_settings(data, where)
    frame_shape = _frame_shape(data, where)
    tensors = unwrapped(named(file.value, f"{where}: {_POLICY}"), where)
    layout = choose_layout(tensors, (_DQN, _POLICY_LAYERS, _OLD_POLICY), where)
    weights = convert(file, tensors, layout, where=where, frame_shape=frame_shape)
    is_dqn, steps = layout is _DQN, _count(data.get("num_timesteps"))
    facts = {key.strip("_"): str(data[key]) for key in _FACTS if type(data.get(key)) in (int, float)}
    if re.fullmatch(rb"[0-9][0-9a-z.]{0,30}", version.strip()):
        facts["stable_baselines3"] = version.strip().decode()
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=frame_shape,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol={
            **PROTOCOL,
            "frame_size": frame_shape[0],
            "frame_stack": weights.frame_stack,
            "stack_fill": "zeros",
        },
        sha256=source.sha256(name),
        kind="q_values" if is_dqn else "probabilities",
        differences=_DIFFERENCES,
        learner_steps=_count(data.get("_n_updates")) if is_dqn else None,
        env_frames=None if steps is None else steps * FRAME_SKIP,
        facts={**facts, "assumed": _ASSUMED},
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**48 else None


def _settings(data: bytes, where: str) -> dict[str, object]:
    try:
        values = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where}: damaged JSON ({str(error)[:200]})") from error
    return named(values, where)


def _check_settings(data: Mapping[str, object], where: str) -> None:
    """Raises: UserError if a policy computes something else than its tensors' names tell."""
    kwargs = _part(data, "policy_kwargs")
    if kwargs.get("normalize_images", True) is not True:
        raise _unsupported(where, "a policy that does not scale its frames (normalize_images=False)")
    extractor = str(kwargs.get("features_extractor_class", "NatureCNN"))
    if not re.fullmatch(r".{0,200}\bNatureCNN'?>?", extractor):
        raise _unsupported(where, f"a policy with the features of {extractor[:100]}")
    actions = _part(data, "action_space").get(":type:", "Discrete")
    if not re.fullmatch(r".{0,200}\bDiscrete'?>?", str(actions)):
        raise _unsupported(where, f"a policy over actions of {str(actions)[:100]}")


def _frame_shape(data: Mapping[str, object], where: str) -> tuple[int, int]:
    """Of the space of observations, which has channels first; 84x84 where the file does not say."""
    shape = _part(data, "observation_space").get("_shape")
    if shape is None:
        return (_FRAME, _FRAME)
    lengths = [_count(length) for length in shape] if is_list(shape) else []
    if len(lengths) != 3 or not lengths[1] or not lengths[2]:
        raise _unsupported(where, f"a policy over observations of the shape {str(shape)[:100]}")
    if lengths[1] != lengths[2]:
        raise _unsupported(where, f"a policy over frames of {lengths[1]}x{lengths[2]}, which are not square,")
    return (lengths[1], lengths[2])


def _part(data: Mapping[str, object], name: str) -> dict[str, object]:
    value = data.get(name)
    return value if is_named(value) else {}


def _unsupported(where: str, what: str) -> UserError:
    remedy = "supported are DQN and policies over discrete actions with NatureCNN and no further layers"
    return UserError("PATH", where, f"holds {what} that cannot be imported", remedy)


IMPORTER: Final = Importer(
    name="stable-baselines3",
    title="model of a Stable-Baselines3 agent",
    recognises=checkpoints.recognises_any(_models),
    read_agent=_read_agent,
)
