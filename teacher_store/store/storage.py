"""What a teacher store asks of the place where it keeps its bytes, be that a folder or a bucket.

objects/<2>/<sha256>             bytes that never change, under their SHA-256
teachers/<id>/<revision>.json    see `teacher_store.store.revisions`
leases/<random>  sweeps/<random> who is writing, who is clearing up; see `teacher_store.store.leases`
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

OBJECTS: Final = "objects/"
STAGING: Final = "staging"
VIEWS: Final = "views"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a storage.

    Attributes:
      name: parts joined by "/".
      size: bytes.
      modified: when it was put there, Unix seconds by the storage's own clock.
    """

    name: str
    size: int
    modified: float


class ObjectStorage(Protocol):
    """Names and bytes. Whatever one process has put, every other one sees at once, whole.

    Every method raises UserError if the place cannot be reached, may not be used or is full.
    """

    @property
    def location(self) -> str:
        """The path or URL that the store is opened by."""
        ...

    @property
    def local(self) -> Path:
        """A local folder for what is made from the storage's bytes (`VIEWS`), or is to become some (`STAGING`).

        Of a folder it is the folder itself, so that files are linked between them and not copied.
        """
        ...

    def entries(self, prefix: str) -> list[Entry]:
        """Everything whose name begins with `prefix` (whole folders, ending in "/", or one whole name), by name."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of small things; what is not there is left out."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Puts a small thing, durably. False, and nothing is changed, if there is one of this name."""
        ...

    def put_objects(self, files: Mapping[str, Path]) -> None:
        """Puts files, by their SHA-256, durably; those that are there already are not written again."""
        ...

    def fetch(self, sha256: str) -> Path:
        """The local path of an object; what it holds is to be compared with its SHA-256 where it is read.

        Raises: CorruptDataError if it is missing, or was damaged on the way here.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes what is there; nothing happens if there is nothing."""
        ...


def object_name(sha256: str) -> str:
    """The name of an object."""
    return f"{OBJECTS}{sha256[:2]}/{sha256}"
