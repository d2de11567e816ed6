"""Agents of PyTorch's frameworks, made by hand, for the tests of what is refused; and their readers."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip

Tensors = dict[str, Any]


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def layer(name: str, *shape: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator) * 0.1
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(shape[0])}


def nature(*names: str, outputs: int = 4, frames: int = 4) -> Tensors:
    """A nature network an eighth as wide as usual. Args: names: of its five layers."""
    shapes = ((4, frames, 8, 8), (8, 4, 4, 4), (8, 8, 3, 3), (6, 8 * 49), (outputs, 6))
    layers = [layer(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    return {key: value for found in layers for key, value in found.items()}


def cleanrl(outputs: int = 4, frames: int = 4) -> Tensors:
    return nature(*(f"network.{place}" for place in (0, 2, 4, 7, 9)), outputs=outputs, frames=frames)


def saved(value: Any, *, in_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=in_zip)
    return buffer.getvalue()


def rezipped(data: bytes, changes: Mapping[str, bytes]) -> bytes:
    """An archive with other contents in some entries, told by the ends of their names, and sound checksums."""
    buffer, left = io.BytesIO(), set(changes)
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            change = next((end for end in changes if name.endswith(end)), None)
            new.writestr(name, old.read(name) if change is None else changes[change])
            left.discard(str(change))
    assert not left, "no entry was changed"
    return buffer.getvalue()


def dqn_zip(tmp_path: Path, changes: dict[str, bytes]) -> bytes:
    """The fixture of Stable-Baselines3, with other contents in some entries."""
    return rezipped((unzip("stable_baselines3/dqn", tmp_path / "genuine") / "dqn.zip").read_bytes(), changes)


def entry(data: bytes, end: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(end)]
        return archive.read(name)


def read(importer: Importer, path: Path, data: bytes | None = None) -> ImportedAgent:
    """Args: data: is written to `path` first."""
    if data is not None:
        path.write_bytes(data)
    assert importer.read_agent is not None
    agent = importer.read_agent(SourceFiles(path), Request())
    assert agent is not None
    return agent
