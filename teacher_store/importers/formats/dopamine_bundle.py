"""What all Dopamine agents have in common: the pickled bundle `ckpt.N`, its number N, and the protocol.

A bundle is a dict. An agent in JAX puts everything into it: state (the last observation), training_steps,
online_params, target_params, optimizer_state, current_iteration, logs; one in TensorFlow only state, training_steps,
current_iteration and logs, and its weights into `tf_ckpt-N`. Source: Dopamine 4.0.6, `bundle_and_checkpoint` of its
agents, `discrete_domains/checkpointer.py` and `run_experiment.py`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from teacher_store.importers.formats import checkpoints
from teacher_store.importers.imported import EnvFields, Request
from teacher_store.importers.readers.pickle_numpy import plain_constructors
from teacher_store.importers.readers.pickle_reader import Construct, Global, Pending, read_pickle
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_array, is_dict, is_named, is_tuple

DIFFERENCES: Final = (
    "Dopamine opens an episode with the first frame of the game; EnvPool lets one frame of no-op pass first, the least "
    "that it accepts.",
)
_FRAME_SKIP: Final = 4
DEFAULT_FRAME: Final = (84, 84)
_NUMBER: Final = re.compile(r"[0-9]{1,9}$")


def protocol(frame_shape: tuple[int, ...], frame_stack: int) -> EnvFields:
    """What Dopamine trains Atari agents under (Machado et al. 2018, with game over as the only end of an episode)."""
    return {
        "frame_size": frame_shape[0],
        "frame_stack": frame_stack,
        "frame_skip": _FRAME_SKIP,
        "resize_order": "pool_first",
        "interpolation": "area",
        "stack_fill": "zeros",
        "sticky_actions": 0.25,
        "noop_max": 1,
        "fire_reset": False,
        "episodic_life": False,
        "full_action_space": False,
        "clip_rewards": True,
        "max_episode_steps": 27_000,
    }


def assumptions(network: NetworkConfig) -> dict[str, str]:
    """What no file of Dopamine says and is taken from its defaults, as facts of the import."""
    if network.head != "c51":
        return {}
    limit = network.support_limit
    return {"assumed": f"a distribution over returns with {network.atoms} atoms from {-limit:g} to {limit:g}"}


@dataclass(frozen=True, slots=True, eq=False)
class DopamineBundle:
    """A `ckpt.N`, read.

    Attributes:
      frame_shape: (H, W) of the agent's observations; 84x84, Dopamine's, where the bundle has no state.
      frame_stack: frames of one; None where the bundle has no state.
      training_steps: agent steps of training, where it says so.
      iteration: of training, from 0, where it says so.
      values: everything in it.
    """

    frame_shape: tuple[int, int]
    frame_stack: int | None
    training_steps: int | None
    iteration: int | None
    values: Mapping[str, object]

    @property
    def env_frames(self) -> int | None:
        """Environment frames of training."""
        return None if self.training_steps is None else self.training_steps * _FRAME_SKIP

    @property
    def facts(self) -> dict[str, str]:
        """The counters, as the file has them."""
        counters = {"training_steps": self.training_steps, "current_iteration": self.iteration}
        return {name: str(count) for name, count in counters.items() if count is not None}


def read_bundle(data: bytes, where: str) -> DopamineBundle:
    """Reads a bundle that Dopamine has pickled, of any version of JAX, Flax and optax.

    Raises: CorruptDataError if it is damaged, is no bundle, or would construct anything else than numbers.
    """
    values, _ = read_pickle(data, _CONSTRUCTORS, where=where)
    if not is_named(values):
        raise CorruptDataError(f"{where}: no bundle of a Dopamine agent, but a {type(values).__name__}")
    shape, stack = _seen(values.get("state"), where)
    counts = [_count(values.get(name), f"{where}: {name}") for name in ("training_steps", "current_iteration")]
    return DopamineBundle(shape, stack, counts[0], counts[1], values)


def checkpoint_number(name: str) -> int | None:
    """N of `ckpt.N`, `sentinel_checkpoint_complete.N` or `tf_ckpt-N`; None of a name that ends otherwise."""
    match = _NUMBER.search(name)
    return None if match is None else int(match[0])


def choose(source: SourceFiles, names: Iterable[str], request: Request) -> str:
    """Which of an agent's checkpoints to read; see `checkpoints.choose`.

    Where Dopamine's sentinels say which checkpoints were finished, only those can be the newest.

    Args:
      names: of the checkpoints' files, without what follows the number.
    """
    numbers = {name: checkpoint_number(name or source.path.name) for name in names}
    if request.checkpoint is None:
        sentinels = [name for name in source.names() if name.rpartition("/")[2].startswith("sentinel_")]
        finished = {checkpoint_number(name) for name in sentinels} - {None}
        numbers = {name: number for name, number in numbers.items() if number in finished} or numbers
    return checkpoints.choose(source, numbers, request)


def _seen(state: object, where: str) -> tuple[tuple[int, int], int | None]:
    """Frame shape and number of frames of the last observation."""
    if state is None:
        return DEFAULT_FRAME, None
    if not is_array(state) or state.ndim not in (3, 4):  # [1, H, W, frames] of older versions
        raise CorruptDataError(f"{where}: state is no array [H, W, frames]")
    rows, columns, stack = state.shape[-3:]
    if rows != columns or not 24 <= rows <= 256:
        remedy = "supported are square frames of 24 to 256 pixels"
        raise UserError("PATH", where, f"holds an agent that sees frames of {rows}x{columns}", remedy)
    return (rows, columns), stack


def _count(value: object, where: str) -> int | None:
    count = value.item() if is_array(value) and value.size == 1 else value
    if count is not None and (type(count) is not int or not 0 <= count < 2**53):
        raise CorruptDataError(f"{where} is no count")
    return count


class _Constructors(dict[tuple[str, str], Construct]):
    """Those of NumPy, JAX and Flax by name, and the named tuples of optax, whatever they are called."""

    @override
    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self._is_optax(key)

    def __missing__(self, key: tuple[str, str]) -> Construct:
        if not self._is_optax(key):
            raise KeyError(key)
        return _tuple

    @staticmethod
    def _is_optax(key: object) -> bool:
        return is_tuple(key) and str(key[0]).split(".")[0] == "optax"


def _tuple(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return arguments


def _frozen_dict(arguments: tuple[object, ...]) -> dict[object, object]:
    (values,) = arguments
    if not is_dict(values):
        raise CorruptDataError(f"a FrozenDict of a {type(values).__name__}")
    return values


def _jax_array(arguments: tuple[object, ...]) -> Pending:
    """A NumPy array, as its `__reduce__` takes it apart, and what JAX knows of its type beside."""
    function, call, state, _ = arguments
    if not isinstance(function, Global) or function.name != "_reconstruct" or not is_tuple(call):
        raise CorruptDataError("a JAX array that is made of no NumPy array")
    array = _CONSTRUCTORS[function.module, function.name](call)
    if not isinstance(array, Pending):
        raise CorruptDataError("a JAX array that is made of no NumPy array")
    array.set_state(state)
    return array


_CONSTRUCTORS: Final = _Constructors(
    {
        **plain_constructors(),
        ("flax.core.frozen_dict", "FrozenDict"): _frozen_dict,
        ("jax._src.array", "_reconstruct_array"): _jax_array,
        ("jax._src.device_array", "reconstruct_device_array"): _jax_array,  # before JAX 0.4; older ones pickle as NumPy
    }
)
