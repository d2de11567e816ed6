"""Segments of a log are sealed by a thread: appends go on, failures are tried again, a power cut leaves no gap."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from tests.helpers.experience_logs import ENV, SPEC, chunk, contents, write
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_segment import CompressedChunk, compress_chunk, decode_record, encode_record, list_segments


def test_appends_go_on_while_a_full_segment_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, fsync, main = threading.Event(), os.fsync, threading.get_ident()

    def slow_fsync(descriptor: int) -> None:
        if threading.get_ident() != main:
            assert disk.wait(30)
        fsync(descriptor)

    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        monkeypatch.setattr(os, "fsync", slow_fsync)
        number = 0
        while len(list_segments(tmp_path)) < 2:
            number = writer.append(chunk(number), 1) + 1
        # The first segment is full and not sealed; both are readable, and neither is lost if the writer is killed now.
        assert not list(tmp_path.glob("*.index"))
        assert contents(tmp_path) == [chunk(i) for i in range(number)]
        assert writer.num_chunks == number
        disk.set()
        writer.sync()  # waits for the first segment too
        assert len(list(tmp_path.glob("*.index"))) == 1
    assert contents(tmp_path) == [chunk(i) for i in range(number)]


def test_a_seal_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing, fsync = threading.Event(), os.fsync

    def full_disk(descriptor: int) -> None:
        if failing.is_set():
            raise OSError(errno.ENOSPC, "no space")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        failing.set()
        number = 0
        while len(list_segments(tmp_path)) < 2 or writer.num_bytes < 500:  # the second one is full too
            number = writer.append(chunk(number), 1) + 1
        with pytest.raises(UserError, match="is full"):
            writer.append(chunk(number), 1)
        assert (writer.num_chunks, len(list_segments(tmp_path))) == (number, 2)
        with pytest.raises(UserError, match="is full"):
            writer.sync()
        failing.clear()
        assert writer.append(chunk(number), 1) == number
    assert contents(tmp_path) == [chunk(i) for i in range(number + 1)]
    assert len(list(tmp_path.glob("*.index"))) == len(list_segments(tmp_path))


@pytest.mark.parametrize("size", [0, 1, 88, 200])
def test_a_power_cut_while_a_segment_was_being_sealed_leaves_a_log_without_a_gap(tmp_path: Path, size: int) -> None:
    write(tmp_path, range(10), seal=False)
    *_, torn, last = [path for _, path in list_segments(tmp_path)]
    torn.with_suffix(".index").unlink()
    os.truncate(torn, size)
    reader = ExperienceLogReader.open(tmp_path)
    kept = reader.num_chunks
    assert list(reader.iterate()) == [chunk(i) for i in range(kept)]
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        assert (writer.recovered_bytes, last.exists()) == (reader.torn_bytes, False)
        assert writer.append(chunk(kept), 1) == kept
    assert contents(tmp_path) == [chunk(i) for i in range(kept + 1)]


def test_a_record_that_would_become_larger_than_it_says_is_refused() -> None:
    bomb = compress_chunk(bytes(1 << 26))
    assert len(bomb.payload) < 1 << 12
    with pytest.raises(CorruptDataError, match="other than 100 bytes"):
        decode_record(encode_record(replace(bomb, chunk_bytes=100), sequence=0, num_transitions=1), sequence=0)
    huge = zstandard.ZstdCompressor().compress(bytes((256 << 20) + 1))
    record = encode_record(CompressedChunk(huge, (256 << 20) + 1), sequence=0, num_transitions=1)
    with pytest.raises(CorruptDataError, match="or too many"):
        decode_record(record, sequence=0)
