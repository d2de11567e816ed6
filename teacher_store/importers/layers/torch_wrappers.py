"""Where in a checkpoint the network is: under the names that wrappers leave, and beside what training loops save.

`torch.compile` puts `_orig_mod` into the names of a state dict, `DataParallel`, its successors and averaged models
`module`, Lightning and Fabric `_forward_module` and, for the same tensors again, `_original_module`, FSDP and
activation checkpointing names of their own; any of them around the whole network or a part of it, and around one
another. Training loops save a dict with the state dict under a name of their choice, such as Lightning's `state_dict`
or Fabric's `model`, and in it the network under the name of an attribute, beside its target.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from teacher_store.importers.layers.torch_weights import Layout, choose_layout, named
from teacher_store.importers.readers.torch_file import Tensor
from upcycle.errors import CorruptDataError, UserError
from upcycle.narrowing import is_named

_WRAPPERS: Final = (
    "_orig_mod",
    "module",
    "_forward_module",
    "_original_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)
_WRAPPED: Final = "|".join(rf"{wrapper}\." for wrapper in _WRAPPERS)
_COUNTERS: Final = frozenset({"n_averaged"})
"""Of `torch.optim.swa_utils.AveragedModel`, beside the network."""
_MAX_NETWORKS: Final = 16
"""That are looked at in one state dict."""
_ASIDE: Final = re.compile(r"target|(?:^|[._])(?:ema|old)(?:[._]|$)", re.IGNORECASE)
"""Copies of a network that it is trained with; the network itself is meant."""


def mentions(head: bytes, name: str) -> bool:
    """Whether the beginning of a file names a tensor, wrapped or not."""
    parts = [re.escape(part) for part in name.split(".")]
    return re.search(rf"\.(?:{_WRAPPED})*".join(parts).encode(), head) is not None


def unwrapped(tensors: Mapping[str, object], where: str) -> dict[str, object]:
    """A state dict without what wrappers put into its names.

    Raises: CorruptDataError if two different tensors have one name then.
    """
    plain = dict[str, object]()
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if short in _COUNTERS:
            continue
        other = plain.setdefault(short, tensor)
        if other is not tensor and not (isinstance(tensor, Tensor) and other == tensor):
            raise CorruptDataError(f"{where}: has {short} twice, wrapped in different ways, with different values")
    return plain


def find_network(
    value: Mapping[str, object], layouts: Sequence[Layout], where: str, *, inside: str | None = None
) -> tuple[dict[str, object], Layout]:
    """The network of a checkpoint, under the names of its framework, and its layout.

    Args:
      value: what the file holds: a state dict, or a dict with state dicts among others.
      layouts: those that the framework has.
      where: names the file in errors.
      inside: where its framework itself puts the state dict; None for the value itself.
    Raises: CorruptDataError if tensors are missing; UserError if it is a network of another layout, or if there are
      several.
    """
    own = unwrapped(named(value if inside is None else value.get(inside, value), where), where)
    for layout in layouts:
        if layout.fits(set(own)):
            return own, layout
    found = {place: network for state in _state_dicts(value, where) for place, network in _networks(state, layouts)}
    meant = {place: network for place, network in found.items() if not _ASIDE.search(place)} or found
    if len(meant) > 1:
        remedy = "save the state dict of one of them alone"
        raise UserError("PATH", where, f"holds several networks: {', '.join(sorted(meant))[:400]}", remedy)
    if meant:
        return next(iter(meant.values()))
    saved = next((state for place, state in _state_dicts(value, where) if place in ("state_dict", "model")), own)
    return saved, choose_layout(saved, layouts, where)


def _state_dicts(value: Mapping[str, object], where: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Names and contents of all dicts by names in a checkpoint, itself among them."""
    yield "", unwrapped(value, where)
    for place, inner in value.items():
        if is_named(inner):
            yield place, unwrapped(inner, where)


def _networks(
    state: tuple[str, dict[str, object]], layouts: Sequence[Layout]
) -> Iterator[tuple[str, tuple[dict[str, object], Layout]]]:
    """Networks of these layouts in a state dict, each with all that has the same prefix."""
    place, tensors = state
    for layout in layouts:
        head = f"{layout.head}.weight"
        prefixes = [name.removesuffix(head) for name in tensors if name == head or name.endswith(f".{head}")]
        for prefix in prefixes[:_MAX_NETWORKS]:
            inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if layout.fits(set(inner)):
                yield f"{place}.{prefix}".strip("."), (inner, layout)
