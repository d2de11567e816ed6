"""Models of CleanRL's JAX agents: `*.cleanrl_model`, msgpack as `flax.serialization.to_bytes` writes it.

`dqn_atari_jax` and `qdagger_dqn_atari_jax_impalacnn` save {"params": ...}, `c51_atari_jax` {"model_weights": {"params":
...}, "args": its command line}. Their nature networks pad nothing, their impala ones as Flax does (SAME).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from teacher_store.importers import checkpoints
from teacher_store.importers.flax_msgpack import arrays_of, read_msgpack
from teacher_store.importers.flax_weights import Support, convert
from teacher_store.importers.imported import ImportedAgent, Importer, Protocol, Request
from teacher_store.importers.source import Source
from upcycle.errors import CorruptDataError, UserError

_START: Final = re.compile(
    rb"\x81\xa6params[\x80-\x8f]|\x82\xadmodel_weights\x81\xa6params|\x82\xa4args[\x80-\x8f\xde]"
)
_NUMBER: Final = re.compile(r"-offline-([0-9]{1,9})\.cleanrl_model$")
"""Of what QDagger saves while it still learns from its teacher."""
_MAX_FILES: Final = 5_000
_FRAME: Final = 84
_FRAME_STACK: Final = 4
_FRAME_SKIP: Final = 4
_MAX_FACT: Final = 200
_PROTOCOL: Final[Protocol] = {
    "frame_size": _FRAME,
    "frame_stack": _FRAME_STACK,
    "frame_skip": _FRAME_SKIP,
    "resize_order": "pool_first",
    "interpolation": "area",
    "stack_fill": "first_frame",
    "sticky_actions": 0.0,
    "noop_max": 30,
    "fire_reset": True,
    "episodic_life": True,
    "full_action_space": False,
    "clip_rewards": True,
    "max_episode_steps": 27_000,
}
_DIFFERENCES: Final = (
    "CleanRL pools and resizes frames in colour and turns them grey last; EnvPool pools and resizes grey ones.",
    "CleanRL opens an episode with FIRE and then the action after it; EnvPool with FIRE alone.",
)
_FACTS: Final = ("env_id", "exp_name", "seed", "total_timesteps", "gamma")
"""Of the command line."""


def _models(source: Source) -> Iterator[str]:
    for name in source.names()[:_MAX_FILES]:
        if _START.match(source.head(name, 64)):
            yield name


def _read_agent(source: Source, request: Request) -> ImportedAgent:
    numbers = dict[str, int | None]()
    for name in _models(source):
        match = _NUMBER.search(name or source.path.name)
        numbers[name] = None if match is None else int(match[1])
    finished = [name for name, number in numbers.items() if number is None]
    name = checkpoints.choose(source, numbers, request, last=finished[0] if len(finished) == 1 else None)
    where = str(source.locate(name))
    values = read_msgpack(source.read(name), where)
    arguments = _arguments(values, where)
    params = values.get("model_weights", values)
    arrays = {key.removeprefix("params/"): array for key, array in arrays_of(params, where).items()}
    frame_shape = (_FRAME, _FRAME)
    support = _support(arguments, where)
    weights = convert(arrays, where=where, frame_shape=frame_shape, nature_padding="valid", support=support)
    if weights.frame_stack != _FRAME_STACK:
        raise CorruptDataError(f"{where}: a network of {weights.frame_stack} frames; CleanRL's see {_FRAME_STACK}")
    steps = arguments.get("total_timesteps")
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=frame_shape,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol=_PROTOCOL,
        sha256=source.sha256(name),
        differences=_DIFFERENCES,
        env_frames=steps * _FRAME_SKIP if type(steps) is int and 0 <= steps < 2**48 else None,
        facts={
            key: str(arguments[key])[:_MAX_FACT] for key in _FACTS if isinstance(arguments.get(key), str | int | float)
        },
    )


def _arguments(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The command line, where the model keeps it."""
    if "model_weights" not in values:
        return {}
    arguments = values.get("args")
    if not isinstance(arguments, dict):
        raise CorruptDataError(f"{where}: args is no map")
    return cast(dict[str, Any], arguments)


def _support(arguments: Mapping[str, Any], where: str) -> Support | None:
    """The atoms of `c51_atari_jax`, which keeps its command line; None of an agent that keeps none."""
    if not arguments:
        return None
    atoms, low, high = (arguments.get(name) for name in ("n_atoms", "v_min", "v_max"))
    if type(atoms) is not int or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise CorruptDataError(f"{where}: args has no n_atoms, v_min and v_max of a C51 agent")
    if not 2 <= atoms <= 512:
        raise CorruptDataError(f"{where}: args has n_atoms = {atoms}, not 2 to 512")
    if low != -high or not 0 < high < 1e9:
        problem = f"has a support from {low} to {high}"
        raise UserError("PATH", where, problem, "supported are those that lie evenly around 0")
    return Support(atoms, float(high))


IMPORTER: Final = Importer(
    name="cleanrl-jax",
    title="model of a CleanRL agent in JAX",
    recognises=checkpoints.recognises_any(_models),
    read_agent=_read_agent,
)
