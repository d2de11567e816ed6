"""Models of CleanRL's PyTorch agents: `*.cleanrl_model`, the state dict of a network as `torch.save` writes it.

`dqn_atari` and `qdagger_dqn_atari_impalacnn` save a Q network; `c51_atari` saves {"model_weights": ..., "args": its
command line}. `ppo_atari` saves nothing by itself, and its users the state dict of its `Agent`: its policy is imported,
its critic is not. Any of them may have been wrapped or saved by a training loop of another framework: see
`torch_wrappers`.
"""

import math
from collections.abc import Iterator
from typing import Final

from teacher_store.importers.formats import checkpoints, cleanrl
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.layers.torch_weights import Layout, convert, named, support_of
from teacher_store.importers.layers.torch_wrappers import find_network, mentions
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.readers.torch_file import read_torch_file, starts_torch_file
from upcycle.errors import CorruptDataError

_NATURE: Final = ("network.0", "network.2", "network.4")
_Q: Final = Layout("nature", _NATURE, "network.7", "network.9")
_C51: Final = Layout("nature", _NATURE, "network.7", "network.9", others=("atoms",))
_PPO: Final = Layout("nature", _NATURE, "network.7", "actor", others=("critic.",))
_IMPALA: Final = Layout(
    "impala",
    tuple(
        f"network.{stack}.{layer}"
        for stack in range(3)
        for layer in ("conv", "res_block0.conv0", "res_block0.conv1", "res_block1.conv0", "res_block1.conv1")
    ),
    "network.5",
    "network.7",
)
_MARKS: Final = ("network.0.weight", "network.0.conv.weight")
_SEARCHED_BYTES: Final = 1 << 16


def _models(source: SourceFiles) -> Iterator[str]:
    """Names of the files of `torch.save` that name the first layer of a network of CleanRL's."""
    for name in source.names()[: cleanrl.MAX_FILES]:
        head = source.head(name, _SEARCHED_BYTES)
        if starts_torch_file(head) and any(mentions(head, mark) for mark in _MARKS):
            yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    name = cleanrl.choose(source, _models(source), request)
    where = str(source.locate(name))
    file = read_torch_file(source.read(name), where)
    values = named(file.value, where)
    arguments = cleanrl.read_arguments(values, where)
    support = cleanrl.support_of(arguments, where)
    layouts = (_Q, _PPO, _IMPALA) if support is None else (_C51,)
    tensors, layout = find_network(values, layouts, where, inside="model_weights")
    if support is not None:
        atoms, limit = support_of(file, tensors.get("atoms"), f"{where}: atoms")
        if atoms != support.atoms or not math.isclose(limit, support.limit, rel_tol=1e-5):
            raise CorruptDataError(f"{where}: atoms are not those of args")
    weights = convert(file, tensors, layout, where=where, frame_shape=cleanrl.FRAME_SHAPE, support=support)
    kind = "probabilities" if layout is _PPO else "q_values"
    return cleanrl.agent(weights, arguments, where=where, sha256=source.sha256(name), kind=kind)


IMPORTER: Final = Importer(
    name="cleanrl-torch",
    title="model of a CleanRL agent in PyTorch",
    recognises=checkpoints.recognises_any(_models),
    read_agent=_read_agent,
)
