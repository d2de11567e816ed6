"""The teacher store: teachers by id, in a folder or in a bucket, each whole or absent.

    <root>/objects/  teachers/  leases/  sweeps/     see `teacher_store.store.storage`
           views/  staging/                          local folders: see `teacher_store.store.teacher_folders`

Objects first, the record last: what a record names is there, and nothing that was put is ever changed. Weights,
training states and the files of experience logs are objects, kept once however many teachers have them, and linked
with the run that left them where the file system is the same, so that publishing moves none of their bytes.

Teachers that ship with Upcycle, and those of stores that older versions wrote (`old_folders`), are read
where they are; a change to one writes a revision and its objects beside them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from teacher_store.records.record import TeacherRecord
from teacher_store.store.catalogue import Catalogue
from teacher_store.store.leases import put_leased
from teacher_store.store.locations import default_location, open_storage
from teacher_store.store.publishing import (
    NewTeacher,
    check_name,
    compare_files,
    describe_weights,
    files_of,
    shared_log,
    verify_log,
)
from teacher_store.store.revisions import Revision, changed_fields
from teacher_store.store.storage import STAGING
from teacher_store.store.teacher_folders import link_folder
from teacher_store.training_state import TrainingArrays, describe_training_state, read_training_state
from upcycle.errors import UserError
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.files import disk_full_explained, sha256_of

BUNDLED: Final = Path(__file__).resolve().parents[1] / "bundled"
"""Teachers that ship with Upcycle; read-only."""


class TeacherStore:
    """Teachers by id. Any number of processes, on any number of machines, may read and write at the same time.

    Args:
      root: a folder, or the URL of a place that fsspec knows, such as s3://bucket/teachers.
      bundled: folder of teachers to read besides.
    """

    def __init__(self, root: Path | str, bundled: Path | None = BUNDLED) -> None:
        self.storage = open_storage(root)
        self.catalogue = Catalogue(self.storage, bundled)

    @classmethod
    def default(cls) -> "TeacherStore":
        """The user's own store, or the one named by the environment variable UPCYCLE_TEACHERS."""
        return cls(default_location())

    @property
    def location(self) -> str:
        """The path or URL that opens the same store again, in any process."""
        return self.storage.location

    @property
    def root(self) -> Path:
        """The store's folder; of a URL, the folder of its local copies."""
        return self.storage.local

    @property
    def staging(self) -> Path:
        """A folder for files that are to be published: from there they are linked, if the store is a folder.

        What lies in there for long is cleared up by `collect_garbage`.
        """
        path = self.storage.local / STAGING
        with disk_full_explained(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def list(self) -> "list[TeacherRecord]":
        """All teachers, by id; the user's record wins over the bundled one of the same id.

        Raises: CorruptDataError naming the record that is unreadable.
        """
        return self.catalogue.list()

    def known(self) -> "list[TeacherRecord]":
        """All teachers, and the records of those that they descend from and that are none themselves (any more)."""
        return self.catalogue.known()

    def get(self, name: str) -> TeacherRecord:
        """The teacher of an id, of a name that only one has, or of the start of an id that only one has.

        Raises: UserError with the nearest names; CorruptDataError.
        """
        return self.catalogue.get(name)

    def folder(self, record: TeacherRecord, prefix: str = "") -> Path:
        """A local folder with a teacher's files under the names of its record; for reading alone.

        Args:
          record: whose.
          prefix: only files whose path begins so are wanted; others may be absent.
        Raises: UserError if it is not in this store; CorruptDataError if a file is lost.
        """
        if record.revision:
            return link_folder(self.storage, record, prefix)
        return self.catalogue.old_folder(record)

    def weights_path(self, record: TeacherRecord) -> Path:
        """The weight file; reading it is to compare `record.weights.sha256`. Raises UserError if it has none."""
        if record.weights is None:
            raise UserError(
                "teacher", record.id, f"has no weights: it is {record.describe_policy()}", "choose another one"
            )
        return self.folder(record, record.weights.file) / record.weights.file

    def log_directory(self, record: TeacherRecord) -> Path:
        """Folder of the teacher's experience log. Raises UserError if it left none."""
        if record.experience is None:
            remedy = f"run `upcycle teacher collect {record.name} --frames N`"
            raise UserError("teacher", record.id, "has left no experience", remedy)
        return self.folder(record, f"{record.experience.directory}/") / record.experience.directory

    def open_log(self, record: TeacherRecord) -> ExperienceLogReader:
        """The teacher's experience, after comparing every file with its SHA-256.

        Raises: UserError if it left none; CorruptDataError naming the file that is missing, left over or changed.
        """
        directory = self.log_directory(record)
        assert record.experience is not None
        return verify_log(directory, record.experience)

    def training_state(self, record: TeacherRecord) -> TrainingArrays:
        """What the teacher's training had come to, after comparing the file with its SHA-256.

        Raises: UserError if it was published without one; CorruptDataError naming the file if it is damaged.
        """
        state = record.training_state
        if state is None:
            remedy = "set teacher.optimizer=fresh"
            raise UserError("teacher", record.id, "was published without its training state", remedy)
        return read_training_state(self.folder(record, state.file) / state.file, state)

    def verify(self, record: TeacherRecord) -> None:
        """Reads every byte of a teacher. Raises CorruptDataError naming the file that is damaged."""
        if record.weights is not None:
            weights = self.weights_path(record)
            compare_files(weights.parent, {weights.name: sha256_of(weights)}, {weights.name: record.weights.sha256})
        if record.training_state is not None:
            self.training_state(record)
        if record.experience is not None:
            self.open_log(record).verify()

    def publish(self, new: NewTeacher) -> TeacherRecord:
        """Adds a teacher: its weight file and, if given, training state and experience, shared where they can be.

        Raises: UserError if it is there already, the name is unfit or the disk is full; CorruptDataError if the log
          or the training state is damaged. The list is as it was then.
        """
        check_name(new.name)
        files = dict[str, Path]()
        state = weights = None
        if new.training_state is not None:
            state = describe_training_state(new.training_state)
            files[state.sha256] = new.training_state
        if new.weights is not None:
            weights = describe_weights(new.weights)
            files[weights.sha256] = new.weights
        with shared_log(new.log_directory, self.storage.local / STAGING) as (experience, log_files):
            return self.add(new.to_record(weights, state, experience), {**log_files, **files})

    def add(
        self, record: TeacherRecord, files: Mapping[str, Path], ancestors: Sequence[TeacherRecord] = ()
    ) -> TeacherRecord:
        """Adds a teacher whose record is complete.

        Args:
          record: of the teacher.
          files: what the record names, by SHA-256, compared already.
          ancestors: whom it descends from; those that the store does not know are kept as records, for the lineage.
        Raises: UserError if it is there already; nothing is left behind then.
        """
        known = self.catalogue.newest()

        def add(before: Revision | None) -> Revision:
            if (before or known.get(record.id, Revision(record, listed=False))).listed:
                raise UserError("teacher", record.id, "is in the store already", "choose another --name")
            return Revision(record)

        add(None)  # before anything is written
        with put_leased(self.storage, files, record, *ancestors):
            known = self.catalogue.newest()  # the lease keeps it so
            for ancestor in ancestors:
                if ancestor.id not in known:
                    self.catalogue.remember(ancestor)
            return self.catalogue.revisions.append(record.id, add).record

    def add_experience(self, name: str, log_directory: Path) -> TeacherRecord:
        """Gives a teacher the buffer in `log_directory` in place of the one it has; returns the new record.

        Raises: as `publish`.
        """
        record = self.get(name)
        with shared_log(log_directory, self.storage.local / STAGING) as (experience, files):
            return self._change(record, {"experience": experience}, files)

    def replace(self, record: TeacherRecord) -> TeacherRecord:
        """Writes what was changed in a teacher's record (a new score), and returns the new record.

        What others have changed meanwhile in other fields is kept. Raises: UserError if it was removed, or was never
        in this store.
        """
        base = self.catalogue.base_of(record)
        return self._change(base, changed_fields(base, record), {})

    def remove(self, name: str) -> TeacherRecord:
        """Takes a teacher out of the list. Its record stays as long as a teacher descends from it; its files are
        freed by `collect_garbage`.

        Raises: UserError if there is none, or it ships with Upcycle.
        """
        record = self.get(name)
        if self.catalogue.is_bundled(record.id):
            raise UserError("teacher", record.id, "ships with Upcycle", "leave it; a store needs no room for it")
        self.catalogue.revisions.append(record.id, lambda before: Revision((before or Revision(record)).record, False))
        return record

    def _change(self, base: TeacherRecord, changes: Mapping[str, object], files: Mapping[str, Path]) -> TeacherRecord:
        """Changes fields of a teacher's newest record; one in an old folder becomes one of this store with that."""

        def change(before: Revision | None) -> Revision:
            if before is not None and not before.listed:
                raise UserError("teacher", base.id, "was removed meanwhile", "publish it again")
            return Revision((base if before is None else before.record).model_copy(update=dict(changes)))

        old = {} if base.revision else files_of(base, self.folder(base))
        with put_leased(self.storage, {**old, **files}, base):
            return self.catalogue.revisions.append(base.id, change).record
