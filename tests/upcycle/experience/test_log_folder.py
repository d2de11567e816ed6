"""Logs that share their segments."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.experience_logs import ENV, SPEC, chunk, contents, write
from upcycle.experience import log_folder, log_segment
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_folder import link_log
from upcycle.experience.log_segment import Segment, list_segments


def test_linking_a_log_moves_no_bytes_and_neither_log_can_harm_the_other(tmp_path: Path) -> None:
    for shard in range(2):
        write(tmp_path / "run" / f"shard-{shard}", range(8))
    report = link_log(tmp_path / "run", tmp_path / "teacher")
    assert report.copied_bytes == 0
    assert report.linked_bytes == sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.log"))
    for path in (tmp_path / "run").rglob("*.log"):
        assert path.samefile(tmp_path / "teacher" / path.relative_to(tmp_path / "run"))
    before = contents(tmp_path / "teacher")
    with ExperienceLogWriter.open(tmp_path / "run" / "shard-0", SPEC, ENV, segment_bytes=250) as writer:
        for number in range(8, 12):
            writer.append(chunk(number), 5)
        writer.trim(1)
    assert contents(tmp_path / "teacher") == before
    with pytest.raises(FileExistsError):
        link_log(tmp_path / "run", tmp_path / "teacher")


def test_linking_a_log_that_is_being_written_copies_its_open_segment_only(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path / "run", SPEC, ENV, segment_bytes=250) as writer:
        for number in range(8):
            writer.append(chunk(number), 1)
        writer.sync()  # no segment is being sealed any more; the last one stays open
        report = link_log(tmp_path / "run", tmp_path / "teacher")
        open_bytes = list_segments(tmp_path / "run")[-1][1].stat().st_size
        assert report.copied_bytes == open_bytes
        assert report.linked_bytes == writer.num_bytes - open_bytes
        writer.append(chunk(8), 1)
    assert contents(tmp_path / "teacher") == [chunk(i) for i in range(8)]
    assert contents(tmp_path / "run") == [chunk(i) for i in range(9)]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    trims=st.lists(st.tuples(st.integers(0, 12), st.integers(30, 200)), max_size=3),
    links=st.booleans(),
)
def test_a_log_that_is_trimmed_while_it_is_shared_has_no_gap_and_all_that_was_to_stay(
    trims: list[tuple[int, int]], links: bool
) -> None:
    calls = 0

    def meanwhile() -> None:
        nonlocal calls
        for at, keep in trims:
            if at == calls:
                writer.trim(keep)
        calls += 1

    def load(path: Path, first: int, *, is_last: bool) -> Segment:
        meanwhile()
        return log_segment.load_segment(path, first, is_last=is_last)

    def link(source: Path, target: Path) -> None:
        meanwhile()
        if not links:
            raise OSError(18, "other file system")
        real_link(source, target)

    real_link = os.link
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        run, teacher = Path(name) / "run", Path(name) / "teacher"
        with ExperienceLogWriter.open(run, SPEC, ENV, segment_bytes=250) as writer:
            for number in range(20):
                writer.append(chunk(number), 10)
            writer.sync()
            patch.setattr(log_folder, "load_segment", load)
            patch.setattr(os, "link", link)
            link_log(run, teacher)
            patch.undo()
        found = contents(teacher)
        ExperienceLogReader.open(teacher).verify()
        assert len(found) * 10 >= min([200, *(keep for _, keep in trims)])
        assert found == [chunk(number) for number in range(20 - len(found), 20)]
        assert {path.suffix for path in teacher.iterdir()} == {".log", ".index", ".json"}
        assert len(list(teacher.glob("*.index"))) == len(list_segments(teacher))
