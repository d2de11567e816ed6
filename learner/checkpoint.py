"""Checkpoints: the whole training state in one verified file; the newest usable one is found at a resume.

Only finite states are saved; a file of an older version that holds other values counts as damaged.

A checkpoint is `step-<learner steps>.pt`, a torch archive read with `weights_only=True`, so that nothing in it is
executed, and `step-<learner steps>.json` with its SHA-256 and counters. The archive is written first: without its JSON
it does not count.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from learner.finiteness import NotFinite, find_not_finite
from upcycle.errors import CorruptDataError, UserError
from upcycle.files import sha256_of, write_atomically

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """One checkpoint on disk."""

    path: Path
    learner_steps: int
    sha256: str
    counters: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run; keeps the newest `keep`.

    Attributes:
      passed_over: why `load_newest` skipped newer checkpoints, a line for each.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self._path, self._keep = path, keep
        self.passed_over: list[str] = []

    def save(self, state: dict[str, Any], *, learner_steps: int, counters: dict[str, Any]) -> CheckpointRef:
        """Writes `state` durably. On a full disk, checkpoints older than the newest are removed to make room.

        Checkpoints of later steps are removed: the run would not be at this step unless they had been skipped.

        Raises: NotFinite; UserError if the disk is still full. The newest checkpoint stays, and no partial file.
        """
        if (place := find_not_finite(state)) is not None:
            raise NotFinite(f"{place} was not finite")
        buffer = io.BytesIO()
        torch.save(state, buffer)
        archive = self._path / f"step-{learner_steps:010d}.pt"
        try:
            write_atomically(archive, buffer.getvalue())
        except UserError:
            if not self._remove_all_but_the_newest():
                raise
            write_atomically(archive, buffer.getvalue())
        ref = CheckpointRef(archive, learner_steps, sha256_of(archive), counters)
        record = {"learner_steps": learner_steps, "sha256": ref.sha256, "counters": counters}
        try:
            write_atomically(archive.with_suffix(".json"), json.dumps(record, indent=1).encode())
        except UserError:
            archive.unlink()
            raise
        refs = self._refs()
        later = [known for known in refs if known.learner_steps > learner_steps]
        _remove([*later, *refs[len(later) + self._keep :]])
        return ref

    def _remove_all_but_the_newest(self) -> bool:
        """Keeps the checkpoint that a resume would load; returns whether it removed any."""
        refs = self._refs()
        kept = next((ref for ref in refs if _what_is_wrong(ref) is None), None)
        others = [ref for ref in refs if ref is not kept]
        _remove(others)
        return bool(others)

    def load_newest(self) -> tuple[CheckpointRef, dict[str, Any]] | None:
        """The newest checkpoint that is intact and finite.

        Returns: None if the run has no checkpoint at all.
        Raises: CorruptDataError if there are checkpoints and none is usable.
        """
        self.passed_over = []
        for ref in self._refs():
            problem = _what_is_wrong(ref)
            if problem is None:
                return ref, _read(ref)
            self.passed_over.append(f"{ref.path.name} {problem}")
            _log.error("checkpoint_passed_over", path=str(ref.path), problem=problem)
        if self.passed_over:
            reasons = "; ".join(self.passed_over)
            raise CorruptDataError(f"every checkpoint in {self._path} is unusable: {reasons}; start a new run")
        return None

    def load(self, learner_steps: int) -> tuple[CheckpointRef, dict[str, Any]]:
        """The checkpoint of this step, which another process has found to be the newest usable one.

        Raises: CorruptDataError if it is missing or damaged.
        """
        for ref in self._refs():
            if ref.learner_steps == learner_steps and _is_whole(ref):
                return ref, _read(ref)
        raise CorruptDataError(f"{self._path} shows this process no whole checkpoint of step {learner_steps}")

    def _refs(self) -> list[CheckpointRef]:
        """Newest first."""
        refs: list[CheckpointRef] = []
        for path in sorted(self._path.glob("step-*.json"), reverse=True):
            record = json.loads(path.read_bytes())
            refs.append(
                CheckpointRef(path.with_suffix(".pt"), record["learner_steps"], record["sha256"], record["counters"])
            )
        return refs


def _remove(refs: Sequence[CheckpointRef]) -> None:
    for ref in refs:
        ref.path.with_suffix(".json").unlink(missing_ok=True)
        ref.path.unlink(missing_ok=True)


def _what_is_wrong(ref: CheckpointRef) -> str | None:
    """Why a run cannot resume from this checkpoint; None if it can."""
    if not _is_whole(ref):
        return "is damaged"
    place = find_not_finite(_read(ref))
    return None if place is None else f"holds values that are not finite ({place})"


def _is_whole(ref: CheckpointRef) -> bool:
    return ref.path.is_file() and sha256_of(ref.path) == ref.sha256


def _read(ref: CheckpointRef) -> dict[str, Any]:
    return torch.load(ref.path, map_location="cpu", weights_only=True)
