import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.experience_logs import ENV, SPEC, chunk, contents, write
from tests.helpers.paths import ROOT
from upcycle.config.run import EnvConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.experience.chunks import ChunkSpec
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_segment import list_segments


def test_chunks_come_back_in_order_over_several_segments_and_writers(tmp_path: Path) -> None:
    write(tmp_path / "log", range(10))
    write(tmp_path / "log", range(10, 15))
    assert len(list_segments(tmp_path / "log")) >= 4
    assert contents(tmp_path / "log") == [chunk(i) for i in range(15)]
    reader = ExperienceLogReader.open(tmp_path / "log")
    assert (reader.num_chunks, reader.num_transitions) == (15, sum(range(15)))
    assert (reader.spec, reader.env) == (SPEC, ENV)
    assert reader.read(7) == chunk(7)


def test_a_reader_sees_what_a_live_writer_has_acknowledged(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV, segment_bytes=250) as writer:
        for number in range(9):
            writer.append(chunk(number), 1)
            assert contents(tmp_path / "log") == [chunk(i) for i in range(number + 1)]


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV),
        pytest.raises(UserError, match="has a writer already"),
    ):
        ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV)
    ExperienceLogWriter.open(tmp_path / "log", SPEC, ENV).close()


def test_other_chunks_or_another_environment_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "log", range(2))
    other = ChunkSpec(frame_shape=(5, 4), frame_dtype="uint8", num_actions=3, steps=8, history=1, lookahead=1)
    with pytest.raises(UserError, match="holds other chunks"):
        ExperienceLogWriter.open(tmp_path / "log", other, ENV)
    with pytest.raises(UserError, match="holds other environment"):
        ExperienceLogWriter.open(tmp_path / "log", SPEC, EnvConfig(frame_size=84))
    write(tmp_path / "log", range(2, 4))  # the refusals have left no lock


def test_no_log_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no log here"):
        ExperienceLogReader.open(tmp_path)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_byte_is_noticed_and_never_yields_a_wrong_chunk(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    sealed = data.draw(st.booleans())
    write(directory, range(8), seal=sealed)
    files = sorted(path for path in directory.iterdir() if path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    try:
        reader = ExperienceLogReader.open(directory)
    except CorruptDataError:
        return
    assert (reader.spec, reader.env) == (SPEC, ENV)
    for index in range(reader.num_chunks):
        with contextlib.suppress(CorruptDataError):
            assert reader.read(index) == chunk(index)
    if path.suffix == ".log":
        with pytest.raises(CorruptDataError, match=path.name):
            reader.verify()
    else:  # a sidecar is made anew, and so is white space
        reader.verify()
        assert reader.num_chunks == 8


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_cut_tail_is_recovered_and_any_other_cut_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("cut")
    write(directory, range(8), seal=False)
    segments = [path for _, path in list_segments(directory)]
    path = data.draw(st.sampled_from(segments))
    size = data.draw(st.integers(0, path.stat().st_size - 1))
    os.truncate(path, size)
    if path != segments[-1]:
        with pytest.raises(CorruptDataError, match=f"{path.name} at byte {size}"):
            ExperienceLogReader.open(directory)
        with pytest.raises(CorruptDataError):
            ExperienceLogWriter.open(directory, SPEC, ENV)
        return
    reader = ExperienceLogReader.open(directory)
    kept = reader.num_chunks
    assert list(reader.iterate()) == [chunk(i) for i in range(kept)]
    if reader.torn_bytes:
        with pytest.raises(CorruptDataError, match="unfinished record"):
            reader.verify()
    with ExperienceLogWriter.open(directory, SPEC, ENV) as writer:
        assert writer.recovered_bytes == reader.torn_bytes
        assert writer.append(chunk(kept), 1) == kept
    assert contents(directory) == [chunk(i) for i in range(kept + 1)]


def test_damage_before_the_end_is_no_torn_tail(tmp_path: Path) -> None:
    write(tmp_path, range(5), segment_bytes=1 << 20, seal=False)
    path = list_segments(tmp_path)[0][1]
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(CorruptDataError, match="whole records follow it"):
        ExperienceLogWriter.open(tmp_path, SPEC, ENV)
    assert path.read_bytes() == before


def test_whole_records_in_each_others_place_are_noticed(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        for number in (0, 7):
            writer.append(chunk(number), 1)
    path = list_segments(tmp_path)[0][1]
    content = path.read_bytes()
    half = len(content) // 2  # both chunks have the same size
    path.write_bytes(content[half:] + content[:half])
    with pytest.raises(CorruptDataError, match=f"{path.name} at byte 0: record number 1 where 0 belongs"):
        ExperienceLogReader.open(tmp_path).read(0)


@pytest.mark.parametrize("change", [("42", "43"), ('"steps": 8', '"steps": 9'), ('"version": 1', '"version": 2')])
def test_a_changed_description_is_noticed(tmp_path: Path, change: tuple[str, str]) -> None:
    write(tmp_path, range(1))
    path = tmp_path / "log.json"
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(CorruptDataError, match=r"log\.json"):
        ExperienceLogReader.open(tmp_path)


def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, range(9))
    list_segments(tmp_path)[1][1].unlink()
    with pytest.raises(CorruptDataError, match="is missing before it"):
        ExperienceLogReader.open(tmp_path)


def test_trimming_removes_whole_old_segments_and_keeps_enough(tmp_path: Path) -> None:
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV, segment_bytes=250) as writer:
        for number in range(20):
            writer.append(chunk(number), 10)
        assert writer.trim(1000) == 0
        removed = writer.trim(95)
        assert 0 < removed <= 105
        assert writer.num_transitions == 200 - removed
        kept = writer.num_chunks
        assert contents(tmp_path) == [chunk(i) for i in range(20 - kept, 20)]
        writer.append(chunk(20), 10)
    assert contents(tmp_path)[-1] == chunk(20)
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        writer.trim(0)
        assert writer.num_chunks >= 1  # the newest segment stays: it carries the count
        assert writer.append(chunk(21), 1) == 21


@settings(max_examples=50, deadline=None)
@given(
    num_shards=st.integers(1, 5),
    newest=st.one_of(st.none(), st.integers(0, 60)),
    counts=st.lists(st.integers(0, 9), max_size=12),
)
def test_shards_divide_the_newest_chunks_among_them(
    tmp_path_factory: pytest.TempPathFactory, num_shards: int, newest: int | None, counts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("shards")
    with ExperienceLogWriter.open(directory, SPEC, ENV) as writer:
        for number, count in enumerate(counts):
            writer.append(chunk(number), count)
    reader = ExperienceLogReader.open(directory)
    shares = [
        list(reader.iterate(shard_index=k, num_shards=num_shards, newest_transitions=newest)) for k in range(num_shards)
    ]
    number_of = {chunk(i): i for i in range(len(counts))}
    numbers = [[number_of[data] for data in share] for share in shares]
    assert all(share == sorted(share) for share in numbers)
    together = sorted(number for share in numbers for number in share)
    assert together == list(range(len(counts) - len(together), len(counts)))
    if newest is None:
        assert len(together) == len(counts)
    else:
        held = sum(counts[number] for number in together)
        assert held >= min(newest, sum(counts))
        assert not together or held - counts[together[0]] < newest  # the oldest of them was needed


def test_the_logs_of_several_shards_read_like_one_with_the_newest_of_all_last(tmp_path: Path) -> None:
    for shard, numbers in enumerate((range(0, 6), range(6, 8))):
        with ExperienceLogWriter.open(tmp_path / f"shard-{shard}", SPEC, ENV) as writer:
            for number in numbers:
                writer.append(chunk(number), 1)
    reader = ExperienceLogReader.open(tmp_path)
    assert list(reader.iterate()) == [chunk(i) for i in (0, 1, 2, 3, 4, 6, 5, 7)]
    assert set(reader.iterate(newest_transitions=2)) == {chunk(5), chunk(7)}
    with ExperienceLogWriter.open(tmp_path / "shard-2", SPEC, EnvConfig(frame_size=84)):
        pass
    with pytest.raises(CorruptDataError, match="shard-2"):
        ExperienceLogReader.open(tmp_path)


def test_what_a_killed_writer_has_acknowledged_is_there(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.helpers.experience_logs import ENV, SPEC, chunk
from upcycle.experience.experience_log import ExperienceLogWriter
writer = ExperienceLogWriter.open(Path(sys.argv[1]), SPEC, ENV, segment_bytes=4000)
for number in range(10**9):
    print(writer.append(chunk(number), 1), flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as acknowledged:
        while int(acknowledged.readline()) < 200:
            pass
        child.kill()
        last = max([200, *(int(line) for line in acknowledged if line.endswith("\n"))])
    child.wait(timeout=10)
    with ExperienceLogWriter.open(tmp_path, SPEC, ENV) as writer:
        kept = writer.num_chunks
        assert kept >= last + 1
        writer.append(chunk(kept), 1)
    assert contents(tmp_path) == [chunk(i) for i in range(kept + 1)]


def test_a_full_disk_leaves_no_half_record_and_the_writer_goes_on(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from tests.helpers.experience_logs import ENV, SPEC, chunk, contents
from upcycle.experience.experience_log import ExperienceLogWriter
from upcycle.errors import UserError
directory = Path(sys.argv[1])
writer = ExperienceLogWriter.open(directory, SPEC, ENV)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
number = 0
while True:
    try:
        writer.append(chunk(number), 1)
        number += 1
    except UserError as error:
        print(error)
        break
assert 0 < number == writer.num_chunks
assert contents(directory) == [chunk(i) for i in range(number)]  # verify() refuses a half record
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert writer.append(chunk(number), 1) == number
writer.close()
assert contents(directory) == [chunk(i) for i in range(number + 1)]
print("went on")
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40)
    assert done.stdout.startswith(f"disk = {str(tmp_path)!r}: is full"), done.stderr
    assert done.stdout.endswith("went on\n"), done.stderr
