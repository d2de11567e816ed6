"""What `metadata.json` of a Minari dataset says: its spaces, and the environment that it was recorded in."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_named, parse_json

_MAX_BYTES: Final = 64 << 20
_MAX_STACK: Final = 16
_MAX_ELEMENTS: Final = 1 << 24
_IMAGE_SIDE: Final = 32  # what is smaller is no image to Minari
_FACTS: Final = ("dataset_id", "algorithm_name", "author", "minari_version", "description", "code_permalink")
_ALE: Final = re.compile(r"ALE/([A-Za-z0-9]{1,40})-v5")
_NO_FRAMESKIP: Final = re.compile(r"([A-Za-z0-9]{1,40})NoFrameskip-v4")
_SAME_NAME: Final = frozenset({"Acrobot-v1", "CartPole-v0", "CartPole-v1", "MountainCar-v0"})


@dataclass(frozen=True, slots=True)
class Metadata:
    """A dataset that can be taken.

    Attributes:
      shape: of one observation; dtype: "uint8" or "float32", as rows of ours have it.
      stack_axis: of the frames in an observation; None where it is one frame, or a vector.
      is_lossy: images are kept as JPEG.
      num_actions: they count from `first_action`.
      episodes, steps: how many there are.
      task: EnvPool task, where it is clear; protocol: what is said of it.
      facts: the rest that is worth keeping.
    """

    shape: tuple[int, ...]
    dtype: str
    stack_axis: int | None
    is_lossy: bool
    num_actions: int
    first_action: int
    episodes: int
    steps: int
    task: str | None
    protocol: Mapping[str, object] = field(default_factory=dict[str, object])
    facts: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def stack(self) -> int:
        """Frames of an observation."""
        return 1 if self.stack_axis is None else self.shape[self.stack_axis]

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame."""
        if self.stack_axis is None:
            return tuple(side for side in self.shape if side > 1) if len(self.shape) == 3 else self.shape
        return self.shape[1:] if self.stack_axis == 0 else self.shape[:-1]


def read_values(source: SourceFiles, name: str) -> dict[str, Any]:
    """The values of `metadata.json`. Raises: CorruptDataError if they are none."""
    where = source.locate(name)
    try:
        values = parse_json(source.read(name, limit=_MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where}: no JSON ({str(error)[:200]})") from error
    if not is_named(values):
        raise CorruptDataError(f"{where}: no JSON object")
    return values


def read_metadata(source: SourceFiles, name: str) -> Metadata:
    """Raises: UserError for a dataset of a kind that cannot be taken; CorruptDataError for what makes no sense."""
    values, where = read_values(source, name), str(source.locate(name))
    if values.get("data_format") != "hdf5":
        problem, remedy = f"keeps its data as {values.get('data_format')!r}", "save it with data_format='hdf5'"
        raise UserError("PATH", str(source.path), problem, remedy)
    if not isinstance(values.get("observation_space"), str) or not isinstance(values.get("action_space"), str):
        problem = "does not say which spaces its observations and actions are of"
        raise UserError("PATH", str(source.path), problem, "save it again with Minari 0.5 or later")
    try:
        observation, action = json.loads(values["observation_space"]), json.loads(values["action_space"])
        episodes, steps = int(values["total_episodes"]), int(values["total_steps"])
        first_action, num_actions = _discrete(source, action)
        shape, dtype, stack_axis = _box(source, observation)
        is_lossy = bool(values.get("jpeg_encoding", True)) and _is_image(observation, shape, dtype)
        task, protocol = _environment(values.get("env_spec"))
    except UserError:  # it is a ValueError too
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
        raise CorruptDataError(f"{where}: makes no sense ({problem})") from error
    facts = {key: str(values[key])[:500] for key in _FACTS if values.get(key)}
    return Metadata(
        shape=shape,
        dtype=dtype,
        stack_axis=stack_axis,
        is_lossy=is_lossy,
        num_actions=num_actions,
        first_action=first_action,
        episodes=episodes,
        steps=steps,
        task=task,
        protocol=protocol,
        facts=facts,
    )


def _discrete(source: SourceFiles, space: Any) -> tuple[int, int]:
    if space["type"] != "Discrete":
        problem = f"has actions of a {str(space['type'])[:40]} space"
        raise UserError("PATH", str(source.path), problem, "import a dataset of discrete actions")
    start, count = int(space["start"]), int(space["n"])
    if not (1 <= count <= 1024 and abs(start) < 1 << 31):
        raise ValueError(f"{count} actions from {start} on")
    return start, count


def _box(source: SourceFiles, space: Any) -> tuple[tuple[int, ...], str, int | None]:
    """Shape and dtype of an observation, and along which axis its frames are stacked."""
    if space["type"] != "Box":
        problem = f"has observations of a {str(space['type'])[:40]} space"
        raise UserError("PATH", str(source.path), problem, "import a dataset of one Box: an image, or a vector")
    shape, dtype = tuple(int(side) for side in space["shape"]), str(space["dtype"])
    if not shape or len(shape) > 8 or min(shape) < 1 or math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"observations of shape {shape}")
    if dtype in ("float32", "float64") and len(shape) == 1:
        return shape, "float32", None
    if dtype == "uint8" and len(shape) == 2:
        return shape, "uint8", None
    if dtype == "uint8" and len(shape) == 3:
        for axis, sides in ((0, shape[1:]), (2, shape[:2])):
            if shape[axis] <= _MAX_STACK and shape[axis] < min(sides):
                return shape, "uint8", None if shape[axis] == 1 else (0 if axis == 0 else -1)
    problem = f"has observations of {dtype[:40]} {shape}"
    remedy = "import one of uint8 images (H, W), stacks of them, or float vectors"
    raise UserError("PATH", str(source.path), problem, remedy)


def _is_image(space: Any, shape: tuple[int, ...], dtype: str) -> bool:
    """Minari's own rule."""
    if dtype != "uint8" or len(shape) < 2 or min(shape[:2]) < _IMAGE_SIDE:
        return False
    low, high = np.asarray(space["low"], np.float64), np.asarray(space["high"], np.float64)
    return bool((low == 0).all() and (high == 255).all())


def _environment(spec: Any) -> tuple[str | None, dict[str, object]]:
    """The EnvPool task of a Gymnasium specification, if there is one beyond doubt, and what it says of the protocol."""
    if not isinstance(spec, str):
        return None, {}
    values = json.loads(spec)
    name, kwargs = str(values["id"]), dict[str, Any](values.get("kwargs") or {})
    protocol = dict[str, object]()
    if (found := _ALE.fullmatch(name)) is not None:
        protocol["sticky_actions"] = float(kwargs.get("repeat_action_probability", 0.25))
        protocol["full_action_space"] = bool(kwargs.get("full_action_space", False))
        return f"{found[1]}-v5", protocol
    if (found := _NO_FRAMESKIP.fullmatch(name)) is not None:
        return f"{found[1]}-v5", {"sticky_actions": 0.0}
    return (name if name in _SAME_NAME else None), protocol
