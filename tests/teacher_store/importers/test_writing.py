"""Imported experience on its way into a log: whole, in order, and again from where it was killed."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from teacher_store.importers.imported import ImportedExperience, Rows
from teacher_store.importers.lane_chunks import lane_chunks
from teacher_store.importers.writing import write_experience
from tests.helpers.paths import ROOT
from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import ChunkSpec, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader

ENV = EnvConfig()
SPEC = ChunkSpec((6, 5), "uint8", 4, steps=8, history=3, lookahead=2)
NUM_ROWS = 1500


def lane(num_rows: int = NUM_ROWS) -> Rows:
    """Episodes of 50 rows, the last of each final."""
    number, rng = np.arange(num_rows), np.random.default_rng(1)
    final = number % 50 == 49
    return Rows(
        frame=rng.integers(256, size=(num_rows, 6, 5)).astype(np.uint8),
        action=np.where(final, 0, rng.integers(4, size=num_rows)).astype(np.int32),
        reward=np.where(final, 0, number).astype(np.float32),
        terminated=number % 50 == 48,
        truncated=np.zeros(num_rows, bool),
        first=number % 50 == 0,
        final=final,
    )


def experience_of(
    rows: Rows, *, block: int = 40, pause: float = 0.0, fingerprint: str = "f" * 64
) -> ImportedExperience:
    def read(leave_out: int) -> Iterator[Rows]:
        rest = rows.part(leave_out)
        for start in range(0, rest.num_rows, block):
            time.sleep(pause)
            yield rest.part(start, start + block)

    return ImportedExperience(
        rows=read,
        frame_shape=(6, 5),
        frame_dtype="uint8",
        num_actions=4,
        num_rows=rows.num_rows,
        protocol={},
        fingerprint=fingerprint,
    )


def whole_lane() -> list[bytes]:
    return [encode_chunk(chunk, SPEC) for chunk in lane_chunks([lane()], SPEC)]


def chunks_in(directory: Path) -> list[bytes]:
    reader = ExperienceLogReader.open(directory)
    reader.verify()
    return list(reader.iterate())


def test_a_log_holds_the_lane_and_progress_goes_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_experience(
        experience_of(lane()), tmp_path / "log", SPEC, ENV, on_progress=lambda done, total: seen.append((done, total))
    )
    assert chunks_in(tmp_path / "log") == whole_lane()
    assert seen == sorted(seen)
    assert seen[-1] == (NUM_ROWS, NUM_ROWS)
    write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)  # a finished import has nothing left to do
    assert chunks_in(tmp_path / "log") == whole_lane()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("import")]


def test_an_import_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    for after in (1, 7, 60):
        stop = threading.Event()

        def note(done: int, total: int, *, stop: threading.Event = stop, after: int = after) -> None:
            if done >= after * SPEC.steps:
                stop.set()

        write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV, stop=stop, on_progress=note)
    assert 60 <= len(chunks_in(tmp_path / "log")) < len(whole_lane())
    write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)
    assert chunks_in(tmp_path / "log") == whole_lane()


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    code = (
        "from tests.teacher_store.importers.test_writing import *\n"
        f"write_experience(experience_of(lane(), pause=0.005), Path({str(directory)!r}), SPEC, ENV,"
        " on_progress=lambda done, total: print(done, flush=True))"
    )
    for until in (200, 600, 1100):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= until:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(timeout=20) == -signal.SIGKILL
    segment = max(directory.glob("segment-*.log"))
    with segment.open("ab") as file:
        file.write(b"UPLR half a record")  # the kill came in the middle of an append
    write_experience(experience_of(lane()), directory, SPEC, ENV)
    assert chunks_in(directory) == whole_lane()


def test_another_source_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)
    with pytest.raises(UserError, match="beginning of another import"):
        write_experience(experience_of(lane(), fingerprint="e" * 64), tmp_path / "log", SPEC, ENV)
    with pytest.raises(UserError, match="other chunks"):
        write_experience(experience_of(lane()), tmp_path / "log", replace(SPEC, steps=16), ENV)
    assert chunks_in(tmp_path / "log") == whole_lane()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no import"):
        write_experience(experience_of(lane()), tmp_path / "full", SPEC, ENV)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "log" / "import.json").write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)


def test_actions_of_another_task_and_damage_on_the_way_end_the_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 actions, the buffer number 3"):
        write_experience(experience_of(lane()), tmp_path / "few", replace(SPEC, num_actions=3), ENV)

    def damaged(leave_out: int) -> Iterator[Rows]:
        yield lane().part(leave_out, 700)
        raise CorruptDataError("frames.gz: cut off")

    with pytest.raises(CorruptDataError, match=r"frames\.gz"):
        write_experience(replace(experience_of(lane()), rows=damaged), tmp_path / "log", SPEC, ENV)
    kept = chunks_in(tmp_path / "log")
    assert kept == whole_lane()[: len(kept)]
    write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)  # the file has been fetched again
    assert chunks_in(tmp_path / "log") == whole_lane()


def test_a_full_disk_is_said_and_the_import_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from upcycle.experience import experience_log

    real, calls = experience_log.write_all, list[int]()

    def full_after_ten(descriptor: int, data: bytes, *, offset: int = 0) -> None:
        calls.append(offset)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        real(descriptor, data, offset=offset)

    monkeypatch.setattr(experience_log, "write_all", full_after_ten)
    with pytest.raises(UserError, match="is full"):
        write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)
    monkeypatch.undo()
    assert len(chunks_in(tmp_path / "log")) == 10
    write_experience(experience_of(lane()), tmp_path / "log", SPEC, ENV)
    assert chunks_in(tmp_path / "log") == whole_lane()
