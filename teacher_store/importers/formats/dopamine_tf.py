"""Agents of Dopamine in TensorFlow: `tf_ckpt-N.index` and `tf_ckpt-N.data-00000-of-00001`, with `ckpt.N` beside them.

Their variables are Online/LAYER/weights and biases (tf.slim, until 2019) or kernel and bias (Keras). The layers are
Conv, Conv_1, Conv_2, fully_connected, fully_connected_1. Target and the optimizer's slots are not read.
"""

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from teacher_store.importers.formats import checkpoints, dopamine_bundle
from teacher_store.importers.formats.dopamine_bundle import DopamineBundle, read_bundle
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.layers.flax_weights import convert
from teacher_store.importers.readers.flax_layers import unsupported
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.readers.tensor_bundle import MAGIC, Entry, read_index, read_tensor
from upcycle.errors import CorruptDataError
from upcycle.experience.chunks import Array

_MAX_INDEX_BYTES: Final = 16 << 20
_MAX_FILES: Final = 5_000
_SUFFIX: Final = ".index"
_SCOPE: Final = "Online/"
_VARIABLE: Final = re.compile(r"(.+)/(weights|kernel|biases|bias)(/.+)?", re.DOTALL)
"""The layer, the part, and the optimizer's name of a slot."""
_LAYER: Final = re.compile(r"(Conv|fully_connected)(?:_([0-9]{1,2}))?")
_KINDS: Final = {"Conv": "Conv", "fully_connected": "Dense"}
_PARTS: Final = {"weights": "kernel", "kernel": "kernel", "biases": "bias", "bias": "bias"}


def _indices(source: SourceFiles) -> Iterator[str]:
    """Names of the files that are indices of checkpoints and name the variables of a network that is trained."""
    for name in source.names()[:_MAX_FILES]:
        with source.open(name) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(MAGIC)))
            if size > _MAX_INDEX_BYTES or file.read() != MAGIC:
                continue
            file.seek(0)
            if _SCOPE.encode() in file.read(_MAX_INDEX_BYTES):
                yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    names = {name.removesuffix(_SUFFIX): name for name in _indices(source)}
    if source.is_file:
        names = {source.path.name.removesuffix(_SUFFIX): source.path.name}
        source = SourceFiles(source.path.parent)  # for what stands beside it
    prefix = dopamine_bundle.choose(source, names, request)
    where = str(source.locate(names[prefix]))
    index = read_index(source.read(names[prefix], limit=_MAX_INDEX_BYTES), where)
    arrays = _arrays(source, prefix, _layers(index, where))
    bundle = _bundle(source, prefix)
    frame_shape = dopamine_bundle.DEFAULT_FRAME if bundle is None else bundle.frame_shape
    weights = convert(arrays, where=where, frame_shape=frame_shape, nature_padding="same")
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=frame_shape,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol=dopamine_bundle.protocol(frame_shape, weights.frame_stack),
        sha256=source.sha256(names[prefix], _data(prefix)),
        differences=dopamine_bundle.DIFFERENCES,
        env_frames=None if bundle is None else bundle.env_frames,
        facts=({} if bundle is None else bundle.facts) | dopamine_bundle.assumptions(weights.network),
    )


def _layers(index: dict[str, Entry], where: str) -> dict[str, tuple[str, Entry]]:
    """The network's variables and where they are, by Flax's names."""
    found = dict[str, tuple[str, Entry]]()
    for name, entry in index.items():
        if not name.startswith(_SCOPE):
            continue
        variable = _VARIABLE.fullmatch(name.removeprefix(_SCOPE))
        if variable is not None and variable[3] is not None:
            continue
        match = None if variable is None else _LAYER.fullmatch(variable[1])
        if variable is None or match is None:
            raise unsupported(where, f"a network with the variable {name[:100]}")
        layer = f"{_KINDS[match[1]]}_{int(match[2] or 0)}/{_PARTS[variable[2]]}"
        if layer in found:
            raise CorruptDataError(f"{where}: {name} and {found[layer][0]} are one variable under two names")
        found[layer] = (name, entry)
    return found


def _arrays(source: SourceFiles, prefix: str, layers: dict[str, tuple[str, Entry]]) -> dict[str, Array]:
    name = _data(prefix)
    where = source.locate(name)
    with source.open(name) as file:
        return {layer: read_tensor(file, entry, f"{where}: {variable}") for layer, (variable, entry) in layers.items()}


def _data(prefix: str) -> str:
    return f"{prefix}.data-00000-of-00001"


def _bundle(source: SourceFiles, prefix: str) -> DopamineBundle | None:
    """What Dopamine pickles beside the checkpoint; None if it is not there."""
    number = dopamine_bundle.checkpoint_number(prefix)
    name = str(PurePosixPath(prefix).with_name(f"ckpt.{number}"))
    if number is None or name not in source.names():
        return None
    return read_bundle(source.read(name), str(source.locate(name)))


IMPORTER: Final = Importer(
    name="dopamine-tf",
    title="checkpoint of a Dopamine agent in TensorFlow",
    recognises=checkpoints.recognises_any(_indices),
    read_agent=_read_agent,
)
