"""What a log ever took is known after it has been trimmed, whenever its writer died."""

from pathlib import Path

import pytest

from tests.helpers.experience_logs import ENV, SPEC, chunk
from upcycle.errors import CorruptDataError
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_segment import list_segments
from upcycle.experience.log_trimming import count_appended, count_logged


def test_trimming_takes_nothing_from_the_count(tmp_path: Path) -> None:
    log = tmp_path / "shard-3"
    with ExperienceLogWriter.open(log, SPEC, ENV, segment_bytes=250) as writer:
        assert writer.num_appended == 0
        for number in range(20):
            writer.append(chunk(number), 10)
        assert writer.trim(95) > 0
        assert writer.num_transitions < writer.num_appended == 200
        assert count_appended(log) == 200
        assert writer.trim(40) > 0
    with ExperienceLogWriter.open(log, SPEC, ENV) as writer:
        assert writer.num_appended == 200
        writer.append(chunk(20), 7)
        assert writer.num_appended == 207
    (tmp_path / "shard-old").mkdir()
    (tmp_path / "cold-3").mkdir()
    assert count_logged(tmp_path) == {3: 207}
    assert count_logged(tmp_path / "nothing") == {}


def test_a_writer_that_died_between_note_and_removal_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        for number in range(20):
            writer.append(chunk(number), 10)

        def killed(*_: object, **__: object) -> None:
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(OSError, match="killed"):
                writer.trim(95)
    assert count_appended(tmp_path) == 200
    assert ExperienceLogReader.open(tmp_path).num_transitions == 200  # it has not gone yet
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        assert writer.num_appended == 200
        before = len(list_segments(tmp_path))
        writer.trim(95)
        assert len(list_segments(tmp_path)) < before
        assert writer.num_appended == 200


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    def on_disk() -> int:
        return sum(path.stat().st_size for _, path in list_segments(tmp_path))

    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        for number in range(20):
            before = writer.num_bytes
            writer.append(chunk(number), 10)
            assert before < writer.num_bytes == on_disk()
        before = writer.num_bytes
        assert writer.trim(95) > 0
        assert before > writer.num_bytes == on_disk()
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        assert writer.num_bytes == on_disk() > 0


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        writer.append(chunk(0), 1)
    (tmp_path / "trimmed.json").write_text('{"first_sequence": "many"}')
    with pytest.raises(CorruptDataError, match=r"trimmed\.json: unreadable"):
        ExperienceLogWriter.open(tmp_path, SPEC, ENV)


def test_numbers_of_what_was_trimmed_are_not_given_again(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        for number in range(9):
            writer.append(chunk(number), 10)
        writer.trim(1)
        first = list_segments(tmp_path)[0][0]
    for path in tmp_path.glob("segment-*"):  # a power cut before the open segment was on disk
        path.unlink()
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        assert writer.append(chunk(9), 10) == first
        assert writer.num_appended == (first + 1) * 10
    assert count_appended(tmp_path) == (first + 1) * 10
