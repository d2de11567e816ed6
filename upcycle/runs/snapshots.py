"""Weight files: safetensors, written whole, named by version, checked against their SHA-256 when read."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from upcycle.errors import CorruptDataError
from upcycle.files import write_atomically

Tensors = dict[str, NDArray[Any]]

_BEST: Final = "best.safetensors"
_LATEST: Final = "latest.json"
_NAME: Final = re.compile(r"policy-(\d{10})\.safetensors")
_FINALIST: Final = re.compile(r"finalist-(\d{10})\.safetensors")


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Weights and what is known about them.

    Attributes:
      tensors: arrays by parameter name, owned by the caller.
      metadata: strings by name, as given when written.
    """

    tensors: Tensors
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """Where one version lies.

    Attributes:
      version: policy version, 0 or above.
      path: file name, relative to its folder.
      sha256: of the file's bytes.
    """

    version: int
    path: str
    sha256: str


def write_snapshot(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Writes a safetensors file atomically and returns the SHA-256 of its bytes.

    Raises: UserError if the disk is full, CorruptDataError if a value is not finite; nothing is left behind then.
    """
    check_finite(path, tensors)
    data = save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, metadata=dict(metadata))
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_snapshot(path: Path, *, sha256: str | None = None) -> Snapshot:
    """Reads a safetensors file, after comparing its SHA-256 with the expected one where that is given.

    Raises: CorruptDataError if the file is missing, is no safetensors file, has another SHA-256, or holds a value that
      is not finite.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptDataError(f"{path}: there is no such weight file") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise CorruptDataError(f"{path}: SHA-256 is {found} instead of {sha256}")
    try:
        tensors = {name: tensor.copy() for name, tensor in load(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptDataError(f"{path}: not a safetensors file ({error})") from error
    check_finite(path, tensors)
    return Snapshot(tensors, _metadata(data))


def check_finite(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises: CorruptDataError if a tensor of the file at `path` holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise CorruptDataError(f"{path}: {name} holds values that are not finite")


def _metadata(data: bytes) -> dict[str, str]:
    """The free-form strings in the header (a length, then JSON) of a safetensors file that has been validated."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return cast(dict[str, str], header.get("__metadata__", {}))


class SnapshotFolder:
    """The policy versions of one run, and which is the newest.

    One process publishes; any number read. A version is announced in `latest.json` only once its file is whole, and
    an announced file is never changed, so a reader gets a whole version or an error, never a mixture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, version: int, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> SnapshotRef:
        """Writes the file of `version`, then makes it the latest. Creates the folder if need be."""
        self.path.mkdir(parents=True, exist_ok=True)
        name = self.name_of(version)
        ref = SnapshotRef(version, name, write_snapshot(self.path / name, tensors, metadata))
        write_atomically(self.path / _LATEST, json.dumps(asdict(ref)).encode())
        return ref

    def latest(self) -> SnapshotRef | None:
        """The newest published version, or None before the first. Raises CorruptDataError if its note is unreadable."""
        try:
            text = (self.path / _LATEST).read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(text)
            ref = SnapshotRef(int(values["version"]), str(values["path"]), str(values["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{self.path / _LATEST}: unreadable ({error})") from error
        if not _NAME.fullmatch(ref.path):
            raise CorruptDataError(f"{self.path / _LATEST}: {ref.path!r} is not the name of a snapshot")
        return ref

    def versions(self) -> list[int]:
        """The versions whose files are there, ascending."""
        return sorted(int(match[1]) for path in self.path.glob("policy-*") if (match := _NAME.fullmatch(path.name)))

    @staticmethod
    def name_of(version: int) -> str:
        """File name of a version, relative to the folder."""
        return f"policy-{version:010d}.safetensors"

    def load(self, ref: SnapshotRef) -> Snapshot:
        """Reads one version, verified. Raises CorruptDataError, also when it has been pruned meanwhile."""
        return read_snapshot(self.path / ref.path, sha256=ref.sha256)

    def metadata(self, ref: SnapshotRef) -> dict[str, str]:
        """What is known about one version, from the head of its file: its bytes are not verified.

        Raises: CorruptDataError, also when it has been pruned meanwhile.
        """
        path = self.path / ref.path
        try:
            with path.open("rb") as file:
                size = file.read(8)
                return _metadata(size + file.read(min(int.from_bytes(size, "little"), path.stat().st_size)))
        except FileNotFoundError as error:
            raise CorruptDataError(f"{path}: there is no such weight file") from error
        except (ValueError, AttributeError) as error:
            raise CorruptDataError(f"{path}: not a safetensors file ({error})") from error

    def keep_best(self, snapshot: Snapshot) -> None:
        """Keeps a copy that no pruning removes, in place of the one before; the evaluator calls it."""
        write_snapshot(self.path / _BEST, snapshot.tensors, snapshot.metadata)

    def best(self) -> Path | None:
        """The file of the version with the best evaluation so far, or None before the first."""
        path = self.path / _BEST
        return path if path.exists() else None

    def keep_finalist(self, snapshot: Snapshot, version: int) -> None:
        """Keeps a copy of a version that no pruning removes, until `dismiss_finalists` does."""
        write_snapshot(self.path / f"finalist-{version:010d}.safetensors", snapshot.tensors, snapshot.metadata)

    def finalists(self) -> dict[int, Path]:
        """The files of the finalists by version, ascending."""
        paths = sorted(self.path.glob("finalist-*.safetensors"))
        return {int(match[1]): path for path in paths if (match := _FINALIST.fullmatch(path.name))}

    def dismiss_finalists(self, stay: Collection[int]) -> None:
        """Removes the copies of all finalists but those that stay."""
        for version, path in self.finalists().items():
            if version not in stay:
                path.unlink(missing_ok=True)

    def prune(self, keep: int) -> list[int]:
        """Removes all but the `keep` newest versions; returns the versions removed.

        The latest version always stays.
        """
        versions, latest = self.versions(), self.latest()
        kept = {*versions[max(len(versions) - keep, 0) :], *([latest.version] if latest else [])}
        removed = [version for version in versions if version not in kept]
        for version in removed:
            (self.path / self.name_of(version)).unlink(missing_ok=True)
        return removed
