"""Folders that look like a teacher: its files under their names, linked to the objects that they are.

    views/<id>-<digest of the files>/weights.safetensors   training_state.safetensors   experience-<digest>/

Anything in there can be removed at any time; it is linked again (of a bucket: fetched) when it is asked for.
"""

from pathlib import Path

from teacher_store.records.record import TeacherRecord, digest_of_files
from teacher_store.store.publishing import hashes_of
from teacher_store.store.storage import VIEWS, Storage
from upcycle.experience.log_folder import share_file
from upcycle.files import disk_full_explained


def view_name(record: TeacherRecord) -> str:
    """The folder's name. Other files have another one, so that a view never changes."""
    return f"{record.id}-{digest_of_files(hashes_of(record))[:16]}"


def view_folder(storage: Storage, record: TeacherRecord) -> Path:
    """Where a teacher's view is, or is going to be."""
    return storage.local / VIEWS / view_name(record)


def place(storage: Storage, record: TeacherRecord, prefix: str = "") -> Path:
    """A teacher's view, in which at least the files whose path begins with `prefix` are there.

    Raises: CorruptDataError if one is missing in the storage, or was damaged on its way here; UserError.
    """
    folder = view_folder(storage, record)
    with disk_full_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, sha256 in hashes_of(record).items():
            path = folder / name
            if name.startswith(prefix) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _share(storage.fetch(sha256), path)
    return folder


def _share(source: Path, target: Path) -> None:
    try:
        share_file(source, target)
    except FileExistsError:  # another process was faster, and has linked the same object
        return
