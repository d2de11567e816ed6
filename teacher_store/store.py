"""The teacher store: a folder of teachers, each whole or absent.

    <root>/<id>/teacher.json   weights.safetensors   training_state.safetensors (if it has one)
                experience-<digest>/   (an experience log, or one per shard)

Files first, the record last, under a temporary name until then; what has been published is never changed. Experience
is shared with the run that left it (hard links), so publishing on one file system moves none of its bytes.
"""

import difflib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import platformdirs

from teacher_store.functions import digest_of_function
from teacher_store.records import (
    Experience,
    Function,
    Parity,
    Provenance,
    Score,
    TeacherKind,
    TeacherRecord,
    Weights,
    digest_of_files,
    teacher_id,
)
from teacher_store.training_state import describe_training_state, read_training_state
from upcycle.config import EnvConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience_log import ExperienceLogReader
from upcycle.files import disk_full_explained, sha256_of, sync_folder, write_atomically
from upcycle.log_folder import link_log, share_file

_RECORD: Final = "teacher.json"
_ROOT_VARIABLE: Final = "UPCYCLE_TEACHERS"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")
BUNDLED: Final = Path(__file__).resolve().parent / "bundled"
"""Teachers that ship with Upcycle; read-only."""


class TeacherStore:
    """Teachers by id. Any number of processes may read; publishing is atomic, so several may publish too."""

    def __init__(self, root: Path, bundled: Path | None = BUNDLED) -> None:
        self.root = root
        self._bundled = bundled

    @classmethod
    def default(cls) -> "TeacherStore":
        """The user's own store, or the one named by the environment variable UPCYCLE_TEACHERS."""
        named = os.environ.get(_ROOT_VARIABLE)
        return cls(Path(named) if named else platformdirs.user_data_path("upcycle") / "teachers")

    def list(self) -> "list[TeacherRecord]":
        """All teachers, by id; the user's record wins over the bundled one of the same id.

        Raises: CorruptDataError naming the record that is unreadable.
        """
        return [TeacherRecord.read(folder / _RECORD) for _, folder in sorted(self._folders().items())]

    def get(self, name: str) -> TeacherRecord:
        """The teacher of an id, of a name that only one has, or of the start of an id that only one has.

        Raises: UserError with the nearest names; CorruptDataError.
        """
        folders = self._folders()
        if name in folders:
            return TeacherRecord.read(folders[name] / _RECORD)
        records = self.list()
        found = [record for record in records if record.name == name]
        found = found or [record for record in records if name and record.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError("teacher", name, "names several", f"choose one of {', '.join(r.id for r in found)}")
        names = sorted({record.name for record in records} | set(folders))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(folders) or 'none'}"
        raise UserError("teacher", name, "there is no such teacher", remedy)

    def folder(self, record: TeacherRecord) -> Path:
        """Where a teacher's files lie. Raises UserError if it is not in this store."""
        folders = self._folders()
        if record.id not in folders:
            raise UserError("teacher", record.id, "is not in this store", f"known: {', '.join(folders) or 'none'}")
        return folders[record.id]

    def weights_path(self, record: TeacherRecord) -> Path:
        """The weight file; reading it is to compare `record.weights.sha256`. Raises UserError if it has none."""
        if record.weights is None:
            raise UserError(
                "teacher", record.id, f"has no weights: it is {record.describe_policy()}", "choose another one"
            )
        return self.folder(record) / record.weights.file

    def log_directory(self, record: TeacherRecord) -> Path:
        """Folder of the teacher's experience log. Raises UserError if it left none."""
        if record.experience is None:
            remedy = f"run `upcycle teacher collect {record.name} --frames N`"
            raise UserError("teacher", record.id, "has left no experience", remedy)
        return self.folder(record) / record.experience.directory

    def open_log(self, record: TeacherRecord) -> ExperienceLogReader:
        """The teacher's experience, after comparing every file with its SHA-256.

        Raises: UserError if it left none; CorruptDataError naming the file that is missing, left over or changed.
        """
        directory = self.log_directory(record)
        assert record.experience is not None
        _compare(directory, _hashes(directory), record.experience.files)
        return ExperienceLogReader.open(directory)

    def verify(self, record: TeacherRecord) -> None:
        """Reads every byte of a teacher. Raises CorruptDataError naming the file that is damaged."""
        if record.weights is not None:
            weights = self.weights_path(record)
            _compare(weights.parent, {weights.name: sha256_of(weights)}, {weights.name: record.weights.sha256})
        if record.training_state is not None:
            read_training_state(record, self)
        if record.experience is not None:
            self.open_log(record).verify()

    def publish(
        self,
        *,
        name: str,
        env: EnvConfig,
        network: NetworkConfig | None,
        frame_shape: tuple[int, ...],
        frame_stack: int,
        num_actions: int,
        weights: Path | None,
        kind: TeacherKind = "q_values",
        function: Function | None = None,
        actions: tuple[str, ...] = (),
        differences: tuple[str, ...] = (),
        parity: Parity | None = None,
        score: Score | None = None,
        random_score: float | None = None,
        training_state: Path | None = None,
        log_directory: Path | None = None,
        licence: str = "Apache-2.0",
        parents: tuple[str, ...] = (),
        provenance: Provenance | None = None,
    ) -> TeacherRecord:
        """Adds a teacher: its weight file and, if given, training state and experience, shared where they can be.

        Raises: UserError if it is there already, the name is unfit or the disk is full; CorruptDataError if the log
          or the training state is damaged. Nothing is left behind then.
        """
        if not _NAME.fullmatch(name):
            raise UserError("--name", name, "is no name of a teacher", "use up to 48 letters, digits, dots, - and _")
        if weights is not None:
            sha256 = sha256_of(weights)
        elif function is not None:
            sha256 = digest_of_function(function, kind)
        elif log_directory is not None:  # then its experience is what tells it from others
            sha256 = digest_of_files(_hashes(log_directory))
        else:
            raise ValueError("a teacher without weights, function or experience")
        record = TeacherRecord(
            id=teacher_id(name, sha256),
            name=name,
            kind=kind,
            env=env,
            network=network,
            function=function,
            frame_shape=frame_shape,
            frame_stack=frame_stack,
            num_actions=num_actions,
            actions=actions,
            differences=differences,
            parity=parity,
            weights=None if weights is None else Weights(sha256=sha256, bytes=weights.stat().st_size),
            score=score,
            random_score=random_score,
            training_state=None if training_state is None else describe_training_state(training_state),
            licence=licence,
            parents=parents,
            provenance=(provenance or Provenance()).model_copy(update={"created": time.time()}),
        )
        if record.id in self._folders():
            raise UserError("teacher", record.id, "is in the store already", "choose another --name")
        return self._add(record, weights, training_state, log_directory)

    def add_experience(self, name: str, log_directory: Path) -> TeacherRecord:
        """Gives a teacher the buffer in `log_directory` in place of the one it has; returns the new record.

        A bundled teacher gets a copy of its record in the user's store. Raises: as `publish`.
        """
        record = self.get(name)
        own = self.root / record.id
        if not own.exists():
            return self._add(record, self._weights_path(record), self._training_state_path(record), log_directory)
        with _temporary_folder(self.root) as temporary:
            experience = _take_experience(log_directory, temporary)
            if not (own / experience.directory).exists():
                (temporary / experience.directory).rename(own / experience.directory)
        updated = self.replace(record.model_copy(update={"experience": experience}))
        if record.experience is not None and record.experience.directory != experience.directory:
            shutil.rmtree(own / record.experience.directory)
        return updated

    def replace(self, record: TeacherRecord) -> TeacherRecord:
        """Writes a changed record (a new score) of a teacher in the store, atomically."""
        own = self.root / record.id
        if not own.exists():
            old = self.get(record.id)
            log = None if old.experience is None else self.log_directory(old)
            return self._add(record, self._weights_path(old), self._training_state_path(old), log)
        write_atomically(own / _RECORD, record.to_bytes())
        return record

    def _weights_path(self, record: TeacherRecord) -> Path | None:
        return None if record.weights is None else self.weights_path(record)

    def _training_state_path(self, record: TeacherRecord) -> Path | None:
        return None if record.training_state is None else self.folder(record) / record.training_state.file

    def _add(
        self, record: TeacherRecord, weights: Path | None, training_state: Path | None, log_directory: Path | None
    ) -> TeacherRecord:
        with _temporary_folder(self.root) as temporary:
            if weights is not None and record.weights is not None:
                share_file(weights, temporary / record.weights.file)
            if training_state is not None and record.training_state is not None:
                share_file(training_state, temporary / record.training_state.file)
            if log_directory is not None:
                record = record.model_copy(update={"experience": _take_experience(log_directory, temporary)})
            write_atomically(temporary / _RECORD, record.to_bytes())
            temporary.rename(self.root / record.id)
            sync_folder(self.root)
        return record

    def _folders(self) -> dict[str, Path]:
        """Folder of each teacher by id; the user's own win."""
        folders: dict[str, Path] = {}
        for root in (self._bundled, self.root):
            for path in sorted(root.glob(f"*/{_RECORD}")) if root is not None else ():
                if not path.parent.name.startswith("."):
                    # A bundled teacher's folder has its plain name; only its record knows its id.
                    identity = path.parent.name if root == self.root else TeacherRecord.read(path).id
                    folders[identity] = path.parent
        return folders


@contextmanager
def _temporary_folder(root: Path) -> Generator[Path]:
    """A hidden folder in `root`, gone afterwards unless it was renamed."""
    with disk_full_explained(root):
        root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".publishing-", dir=root))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _take_experience(log_directory: Path, folder: Path) -> Experience:
    """Shares a log into `folder` and describes it."""
    place = folder / "experience"
    link_log(log_directory, place)
    reader, files = ExperienceLogReader.open(place), _hashes(place)
    name = f"experience-{digest_of_files(files)[:8]}"
    place.rename(folder / name)
    return Experience(directory=name, transitions=reader.num_transitions, chunks=reader.num_chunks, files=files)


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}


def _compare(directory: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            state = "is missing" if name not in found else "is left over" if name not in expected else "has changed"
            raise CorruptDataError(f"{directory / name}: {state} since the teacher was published")
