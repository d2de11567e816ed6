"""Agents of Dopamine in JAX: `ckpt.N`, a pickle, from before and after Flax's Linen.

Linen calls layers Conv_0, Conv_1, Conv_2, Dense_0, Dense_1 below "params". Before it (until February 2021) one counter
ran over all layers: Conv_0, Conv_1, Conv_2, Dense_3, Dense_4, with nothing around them.

Neither the limits of a distribution's support are in the file, nor whether outputs are a distribution at all: a full
Rainbow with `distributional=False`, or a quantile agent with 51 atoms, has the shapes of a C51 agent and is taken for
one. Only the score that an import measures tells.
"""

from collections.abc import Iterator
from typing import Final

from teacher_store.importers.formats import checkpoints, dopamine_bundle
from teacher_store.importers.formats.dopamine_bundle import read_bundle
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.layers.flax_weights import convert
from teacher_store.importers.readers.flax_layers import flatten
from teacher_store.importers.readers.source_files import SourceFiles
from upcycle.errors import CorruptDataError
from upcycle.narrowing import is_array, is_dict, is_sequence

_SEARCHED_BYTES: Final = 8 << 20
"""Where "online_params" stands at the latest: the state comes before it, float64 of up to 256x256x16."""
_MAX_PROTOCOL: Final = 5
_MAX_FILES: Final = 5_000
_MAX_NODES: Final = 1_000


def _checkpoints(source: SourceFiles) -> Iterator[str]:
    """Names of the files that are pickles and name parameters of a network that is trained."""
    for name in source.names()[:_MAX_FILES]:
        head = source.head(name, 2)
        is_pickle = len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= _MAX_PROTOCOL
        if is_pickle and b"online_params" in source.head(name, _SEARCHED_BYTES):
            yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    name = dopamine_bundle.choose(source, _checkpoints(source), request)
    where = str(source.locate(name))
    bundle = read_bundle(source.read(name), where)
    arrays = _layers(bundle.values.get("online_params"), where)
    weights = convert(arrays, where=where, frame_shape=bundle.frame_shape, nature_padding="same")
    if bundle.frame_stack not in (None, weights.frame_stack):
        problem = f"state has {bundle.frame_stack} frames, the network sees {weights.frame_stack}"
        raise CorruptDataError(f"{where}: {problem}")
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=bundle.frame_shape,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol=dopamine_bundle.protocol(bundle.frame_shape, weights.frame_stack),
        sha256=source.sha256(name),
        differences=dopamine_bundle.DIFFERENCES,
        learner_steps=_gradient_steps(bundle.values.get("optimizer_state")),
        env_frames=bundle.env_frames,
        facts=bundle.facts | dopamine_bundle.assumptions(weights.network),
    )


def _layers(params: object, where: str) -> dict[str, object]:
    """Arrays by Linen's names without "params"."""
    if not is_dict(params):
        raise CorruptDataError(f"{where}: online_params is no dict")
    arrays = flatten(params, where=f"{where}: online_params")
    if "params" in params:
        outside = [name for name in arrays if not name.startswith("params/")]
        if outside:
            raise CorruptDataError(f"{where}: online_params has {outside[0]} beside params")
        return {name.removeprefix("params/"): value for name, value in arrays.items()}
    return _with_counters_by_class(arrays, where)


def _with_counters_by_class(arrays: dict[str, object], where: str) -> dict[str, object]:
    """Linen's names for those of one counter over all layers, which must leave out no number."""
    layers = dict[int, str]()
    for name in arrays:
        layer = name.partition("/")[0]
        number = layer.rpartition("_")[2]
        if not (number.isdecimal() and len(number) < 4) or layers.setdefault(int(number), layer) != layer:
            raise CorruptDataError(f"{where}: online_params has {name}, which no network of Dopamine has")
    if sorted(layers) != list(range(len(layers))):
        raise CorruptDataError(f"{where}: of the layers {sorted(layers.values())} some are missing")
    counts, renamed = dict[str, int](), dict[str, str]()
    for number in sorted(layers):
        kind = layers[number].rpartition("_")[0]
        renamed[layers[number]] = f"{kind}_{counts.get(kind, 0)}"
        counts[kind] = counts.get(kind, 0) + 1
    return {renamed[name.partition("/")[0]] + name[len(name.partition("/")[0]) :]: arrays[name] for name in arrays}


def _gradient_steps(state: object) -> int | None:
    """The count of Adam's state (count, first moments, second moments), somewhere in a chain of transformations."""
    waiting = [state]
    for _ in range(_MAX_NODES):
        if not waiting:
            break
        node = waiting.pop()
        if not is_sequence(node):
            continue
        parts = list(node[:_MAX_NODES])
        count = parts[0] if len(parts) == 3 else None
        if is_array(count) and count.shape == () and count.dtype.kind in "iu":
            return max(0, int(count))
        waiting += parts
    return None


IMPORTER: Final = Importer(
    name="dopamine-jax",
    title="checkpoint of a Dopamine agent in JAX",
    recognises=checkpoints.recognises_any(_checkpoints),
    read_agent=_read_agent,
)
