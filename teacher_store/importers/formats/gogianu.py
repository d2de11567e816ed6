"""Gogianu's Atari agents (DQN, M-DQN, C51): `ALGORITHM_PROTOCOL/GAME/SEED/model_STEP.gz`, gzip around `torch.save`.

A file holds a dict with the network under "estimator_state". It does not say which protocol the agent was trained
under: its folders do, `DQN_modern` or `C51_classic`. STEP counts agent steps. Source: floringogianu/atari-agents,
`play.py` and `ale_env.py`, with the names of attributes as Python mangles them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teacher_store.importers.formats import checkpoints
from teacher_store.importers.imported import EnvFields, ImportedAgent, Importer, Request
from teacher_store.importers.layers.torch_weights import Layout, choose_layout, convert, named, support_of
from teacher_store.importers.layers.torch_wrappers import mentions, unwrapped
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.readers.torch_file import read_torch_file, starts_torch_file
from upcycle.errors import CorruptDataError

_ATOMS: Final = "_AtariNet__support"
_LAYOUT: Final = Layout(
    "nature",
    ("_AtariNet__features.0", "_AtariNet__features.2", "_AtariNet__features.4"),
    "_AtariNet__head.0",
    "_AtariNet__head.2",
    others=(_ATOMS,),
)
_GZIP: Final = b"\x1f\x8b"
_MARKS: Final = ("estimator_state", "_AtariNet__features.0.weight")
_SEARCHED_BYTES: Final = 1 << 20
"""Of the decompressed file: its pickle stands first."""
_MAX_FILES: Final = 5_000
_NUMBER: Final = re.compile(r"_([0-9]{1,9})(?:\.gz)?$")
_FOLDER: Final = re.compile(r"(M-?DQN|DQN|C51)_(modern|classic)(?:_[a-z0-9_]{1,40})?", re.IGNORECASE)
_FRAME_SHAPE: Final = (84, 84)
_FRAME_STACK: Final = 4
_FRAME_SKIP: Final = 4
_MAX_FACT: Final = 80
_COMMON: Final[EnvFields] = {
    "frame_size": _FRAME_SHAPE[0],
    "frame_stack": _FRAME_STACK,
    "frame_skip": _FRAME_SKIP,
    "resize_order": "resize_first",
    "interpolation": "area",
    "full_action_space": False,
    "stack_fill": "zeros",
    "fire_reset": False,
    "clip_rewards": True,
    "max_episode_steps": 27_000,
}
_PROTOCOLS: Final[dict[str, EnvFields]] = {
    "modern": {**_COMMON, "sticky_actions": 0.25, "noop_max": 1, "episodic_life": False},
    "classic": {**_COMMON, "sticky_actions": 0.0, "noop_max": 30, "episodic_life": True},
}
_DIFFERENCES: Final = {
    "modern": "Gogianu's modern agents open an episode with the first frame of the game; EnvPool lets one frame of "
    "no-op pass first, the least that it accepts.",
    "classic": "Gogianu's classic agents open an episode with 0 to 29 frames of no-op, and keep the frames of the last "
    "life in the stack; EnvPool lets 1 to 30 pass, and a life lost in training empties the stack.",
}


def _models(source: SourceFiles) -> Iterator[str]:
    for name in source.names()[:_MAX_FILES]:
        if not source.head(name, len(_GZIP)).startswith(_GZIP):
            continue
        head = source.gunzip_head(name, _SEARCHED_BYTES)
        if starts_torch_file(head) and all(mentions(head, mark) for mark in _MARKS):
            yield name


def _read_agent(source: SourceFiles, request: Request) -> ImportedAgent:
    numbers = checkpoints.numbered(source, _models(source), _NUMBER)
    name = checkpoints.choose(source, numbers, request)
    where = str(source.locate(name))
    file = read_torch_file(source.gunzip(name), where)
    tensors = unwrapped(named(named(file.value, where).get("estimator_state"), f"{where}: estimator_state"), where)
    layout = choose_layout(tensors, (_LAYOUT,), where)
    atoms = tensors.get(_ATOMS)
    support = None if atoms is None else support_of(file, atoms, f"{where}: {_ATOMS}")
    weights = convert(file, tensors, layout, where=where, frame_shape=_FRAME_SHAPE, support=support)
    if weights.frame_stack != _FRAME_STACK:
        raise CorruptDataError(f"{where}: a network of {weights.frame_stack} frames; Gogianu's see {_FRAME_STACK}")
    protocol, facts = _protocol(source.locate(name), is_c51=support is not None)
    steps = numbers[name]
    return ImportedAgent(
        network=weights.network,
        tensors=weights.tensors,
        frame_shape=_FRAME_SHAPE,
        frame_stack=weights.frame_stack,
        num_actions=weights.num_actions,
        protocol=_PROTOCOLS[protocol],
        sha256=source.sha256(name),
        differences=(_DIFFERENCES[protocol],),
        env_frames=None if steps is None else steps * _FRAME_SKIP,
        facts=facts,
    )


def _protocol(path: Path, *, is_c51: bool) -> tuple[str, dict[str, str]]:
    """Which protocol an agent was trained under, and what the path says of it, or what is assumed."""
    for depth, folder in enumerate(reversed(path.absolute().parent.parts)):
        match = _FOLDER.fullmatch(folder)
        if match is not None:
            below = path.absolute().parent.parts[-depth:] if depth else ()
            facts = dict(zip(("game", "seed"), (part[:_MAX_FACT] for part in below), strict=False))
            protocol = match[2].lower()
            return protocol, {"algorithm": match[1], "protocol": protocol, **facts}
    protocol = "classic" if is_c51 else "modern"
    known = "all C51 agents of the collection were" if is_c51 else "most agents of the collection were"
    assumed = f"trained under the {protocol} protocol, as {known}; no folder of its path is called e.g. DQN_modern"
    return protocol, {"assumed": assumed}


IMPORTER: Final = Importer(
    name="gogianu",
    title="agent of Gogianu's collection",
    recognises=checkpoints.recognises_any(_models),
    read_agent=_read_agent,
)
