"""Folders of teachers: their files by name, each a link to its object.

    views/<id>-<digest of the files>/weights.safetensors   training_state.safetensors   experience-<digest>/

They can be removed at any time. The store links them again, or fetches them from a bucket, when they are asked for.
"""

from pathlib import Path

from teacher_store.records.record import TeacherRecord, digest_of_files
from teacher_store.store.publishing import hashes_of
from teacher_store.store.storage import VIEWS, ObjectStorage
from upcycle.experience.log_folder import share_file
from upcycle.files import disk_full_explained


def folder_name(record: TeacherRecord) -> str:
    """The name of a teacher's folder. It depends on the files, so the contents of a folder never change."""
    return f"{record.id}-{digest_of_files(hashes_of(record))[:16]}"


def folder_path(storage: ObjectStorage, record: TeacherRecord) -> Path:
    """Where a teacher's folder is, or will be."""
    return storage.local / VIEWS / folder_name(record)


def link_folder(storage: ObjectStorage, record: TeacherRecord, prefix: str = "") -> Path:
    """Links a teacher's files into its folder, at least those whose path begins with `prefix`.

    Raises: CorruptDataError if one is missing in the storage or was damaged in transit; UserError.
    """
    folder = folder_path(storage, record)
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
