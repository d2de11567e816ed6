"""Models of CleanRL's JAX agents: `*.cleanrl_model`, msgpack as `flax.serialization.to_bytes` writes it.

`dqn_atari_jax` and `qdagger_dqn_atari_jax_impalacnn` save {"params": ...}, `c51_atari_jax` {"model_weights": {"params":
...}, "args": its command line}. Their nature networks pad nothing, their impala ones as Flax does (SAME).
"""

import re
from collections.abc import Iterator
from typing import Final

from teacher_store.importers.formats import checkpoints, cleanrl
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.layers.flax_weights import convert
from teacher_store.importers.readers.flax_msgpack import arrays_of, read_msgpack
from teacher_store.importers.readers.source_files import SourceFiles

_START: Final = re.compile(
    rb"\x81\xa6params[\x80-\x8f]|\x82\xadmodel_weights\x81\xa6params|\x82\xa4args[\x80-\x8f\xde]"
)


def _models(source: SourceFiles) -> Iterator[str]:
    for name in source.names()[: cleanrl.MAX_FILES]:
        if _START.match(source.head(name, 64)):
            yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    name = cleanrl.choose(source, _models(source), request)
    where = str(source.locate(name))
    values = read_msgpack(source.read(name), where)
    arguments = cleanrl.read_arguments(values, where)
    params = values.get("model_weights", values)
    arrays = {key.removeprefix("params/"): array for key, array in arrays_of(params, where).items()}
    support = cleanrl.support_of(arguments, where)
    weights = convert(arrays, where=where, frame_shape=cleanrl.FRAME_SHAPE, nature_padding="valid", support=support)
    return cleanrl.agent(weights, arguments, where=where, sha256=source.sha256(name))


IMPORTER: Final = Importer(
    name="cleanrl-jax",
    title="model of a CleanRL agent in JAX",
    recognises=checkpoints.recognises_any(_models),
    read_agent=_read_agent,
)
