"""Teachers in folders of their own, as stores used to keep them and as Upcycle ships them; read-only.

    <root>/<folder>/teacher.json   weights.safetensors   training_state.safetensors   experience-<digest>/

A bundle (`teacher_store.store.bundle`) that was unpacked is such a folder.
"""

from pathlib import Path
from typing import Final

from teacher_store.records.record import TeacherRecord

RECORD: Final = "teacher.json"


def find_old_folders(root: Path) -> dict[str, tuple[TeacherRecord, Path]]:
    """Record, of revision 0, and folder of each teacher by id. Raises: CorruptDataError naming a damaged record."""
    found = dict[str, tuple[TeacherRecord, Path]]()
    for path in sorted(root.glob(f"*/{RECORD}")):
        if not path.parent.name.startswith("."):  # what a killed process of an older version has left
            record = TeacherRecord.from_bytes(path.read_bytes(), where=str(path)).model_copy(update={"revision": 0})
            found[record.id] = (record, path.parent)
    return found
