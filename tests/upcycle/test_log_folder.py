"""Logs that share their segments."""

from pathlib import Path

import pytest

from tests.upcycle.test_experience_log import ENV, SPEC, chunk, contents, write
from upcycle.experience_log import ExperienceLogWriter
from upcycle.log_folder import link_log
from upcycle.log_segment import list_segments


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
