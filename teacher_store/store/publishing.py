"""What becomes of a publisher's files: checked, hashed, described. Nothing here knows where a store keeps them."""

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from teacher_store.functions import digest_of_function
from teacher_store.records.record import (
    Experience,
    Function,
    Parity,
    Provenance,
    Score,
    TeacherKind,
    TeacherRecord,
    TrainingState,
    Weights,
    digest_of_files,
    teacher_id,
)
from upcycle.config.extension_use import extensions_of_policy, record_extensions
from upcycle.config.run import EnvConfig, NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.experience_log import ExperienceLogReader
from upcycle.experience.log_folder import link_log
from upcycle.files import disk_full_explained, sha256_of

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTeacher:
    """A teacher to publish: the facts of its record, and where its files are.

    Attributes:
      weights, training_state, log_directory: its files, None where it has none; the store shares them if it can.
    The others are those of `teacher_store.records.record.TeacherRecord`.
    """

    name: str
    env: EnvConfig
    network: NetworkConfig | None
    frame_shape: tuple[int, ...]
    frame_stack: int
    num_actions: int
    weights: Path | None
    kind: TeacherKind = "q_values"
    function: Function | None = None
    actions: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    parity: Parity | None = None
    score: Score | None = None
    random_score: float | None = None
    training_state: Path | None = None
    log_directory: Path | None = None
    licence: str = "Apache-2.0"
    parents: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def to_record(
        self, weights: Weights | None, training_state: TrainingState | None, experience: Experience | None
    ) -> TeacherRecord:
        """Its record, with the entries of its files. It counts as created now."""
        return TeacherRecord(
            id=teacher_id(self.name, self._digest(weights, experience)),
            name=self.name,
            kind="experience" if self.weights is None and self.function is None else self.kind,
            env=self.env,
            network=self.network,
            function=self.function,
            frame_shape=self.frame_shape,
            frame_stack=self.frame_stack,
            num_actions=self.num_actions,
            actions=self.actions,
            differences=self.differences,
            parity=self.parity,
            weights=weights,
            score=self.score,
            random_score=self.random_score,
            experience=experience,
            training_state=training_state,
            licence=self.licence,
            parents=self.parents,
            provenance=self.provenance.model_copy(update={"created": time.time()}),
            extensions=record_extensions(extensions_of_policy(self.env, self.network)),
        )

    def _digest(self, weights: Weights | None, experience: Experience | None) -> str:
        """What tells it from others: the SHA-256 of its weights, else of its function's name, else of its log."""
        if weights is not None:
            return weights.sha256
        if self.function is not None:
            return digest_of_function(self.function, self.kind)
        if experience is not None:
            return digest_of_files(experience.files)
        raise ValueError("a teacher without weights, function and experience")


def check_name(name: str) -> None:
    """Raises UserError if a teacher cannot be called so."""
    if not _NAME.fullmatch(name):
        raise UserError("--name", name, "is no name of a teacher", "use up to 48 letters, digits, dots, - and _")


@contextmanager
def shared_log(log_directory: Path | None, staging: Path) -> Generator[tuple[Experience | None, dict[str, Path]]]:
    """A log, shared for a while into a folder in `staging`: the record's entry, and its files by SHA-256.

    Raises: UserError if there is no log, or the disk is full; CorruptDataError if it is damaged.
    """
    if log_directory is None:
        yield None, {}
        return
    with disk_full_explained(staging):
        staging.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryDirectory(prefix=".publishing-", dir=staging)
    with temporary:
        folder = Path(temporary.name) / "log"
        link_log(log_directory, folder)
        reader, files = ExperienceLogReader.open(folder), hash_files(folder)
        transitions, chunks = reader.num_transitions, reader.num_chunks
        name = f"experience-{digest_of_files(files)[:8]}"
        yield (
            Experience(directory=name, transitions=transitions, chunks=chunks, files=files),
            {sha256: folder / file for file, sha256 in reversed(files.items())},  # of files alike the first
        )


def hash_files(directory: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}


def compare_files(directory: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises CorruptDataError naming a file that is not as it was."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            state = "is missing" if name not in found else "is left over" if name not in expected else "has changed"
            raise CorruptDataError(f"{directory / name}: {state} since the teacher was published")


def verify_log(directory: Path, experience: Experience) -> ExperienceLogReader:
    """Opens a log after comparing every file with its SHA-256, and its contents with their description.

    Raises: CorruptDataError naming the file that is missing, left over or changed.
    """
    compare_files(directory, hash_files(directory), experience.files)
    reader = ExperienceLogReader.open(directory)
    found, expected = (reader.num_transitions, reader.num_chunks), (experience.transitions, experience.chunks)
    if found != expected:
        raise CorruptDataError(f"{directory}: holds {found} transitions and chunks, its record says {expected}")
    return reader


def describe_weights(path: Path) -> Weights:
    """The entry of a record about a weight file."""
    return Weights(sha256=sha256_of(path), bytes=path.stat().st_size)


def hashes_of(record: TeacherRecord) -> dict[str, str]:
    """SHA-256 of each of a teacher's files, by path in its folder."""
    found = {part.file: part.sha256 for part in (record.weights, record.training_state) if part is not None}
    if record.experience is not None:
        directory = record.experience.directory
        found |= {f"{directory}/{name}": sha256 for name, sha256 in record.experience.files.items()}
    return found


def files_of(record: TeacherRecord, folder: Path) -> dict[str, Path]:
    """A teacher's files by their SHA-256, in a folder where they have the names of the record."""
    return {sha256: folder / name for name, sha256 in hashes_of(record).items()}
