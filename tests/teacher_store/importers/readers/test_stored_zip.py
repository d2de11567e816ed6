"""Archives read strictly: what PyTorch and Python's `zipfile` write, and what hostile hands do to it."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from teacher_store.importers.readers import stored_zip
from teacher_store.importers.readers.stored_zip import StoredZip
from tests.helpers.fixture_files import unzip
from upcycle.errors import CorruptDataError

CONTENTS = {"data": b"settings " * 20, "policy.pth": bytes(range(256)) * 5, "folder/empty": b""}


def archive(contents: dict[str, bytes] = CONTENTS, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return buffer.getvalue()


def opened(data: bytes) -> StoredZip:
    return StoredZip(io.BytesIO(data), "agent.zip")


def read_all(data: bytes) -> dict[str, bytes]:
    file = opened(data)
    return {name: file.read(name) for name in file.names()}


def directory_at(data: bytes) -> int:
    return int.from_bytes(data[-6:-2], "little")


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """With `value` at `offset` of the first entry of the directory."""
    at = directory_at(data) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries_are_what_was_written(method: int):
    assert read_all(archive(method=method)) == CONTENTS
    assert opened(archive(method=method)).size("data") == 180


def test_a_file_of_pytorch_is_what_zipfile_makes_of_it(tmp_path: Path):
    (path,) = unzip("cleanrl_torch/nature", tmp_path).iterdir()
    with zipfile.ZipFile(path) as file:
        expected = {name: file.read(name) for name in file.namelist()}
    assert len(expected) > 10
    assert read_all(path.read_bytes()) == expected


def test_an_empty_archive_has_no_entries():
    assert opened(archive({})).names() == []


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "C:evil", "a\\b", ".", "dir/", "a\nb"]
)
def test_names_that_lead_elsewhere_are_refused(name: str):
    plain = "x" * len(name)
    data = archive({plain: b"1"}).replace(plain.encode(), name.encode())
    with pytest.raises(CorruptDataError, match=r"agent\.zip: refused archive: the name .* of an entry"):
        opened(data)


def test_two_entries_of_one_name_are_refused():
    data = archive({"a": b"1", "b": b"2"}).replace(b"b", b"a")
    with pytest.raises(CorruptDataError, match="it has two entries a"):
        opened(data)


def test_a_decompression_bomb_is_refused():
    """Whether it says so, or says that it is small."""
    bomb = archive({"bomb": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptDataError, match="bomb has 52,428,800 bytes, over 1,000,000"):
        opened(bomb).read("bomb", limit=1_000_000)
    small = patched(bomb, 24, struct.pack("<L", 60_000))
    with pytest.raises(CorruptDataError, match="bomb decompresses to another size than 60,000 bytes"):
        opened(small).read("bomb")
    large = patched(bomb, 24, struct.pack("<L", 0x7FFFFFFF))
    with pytest.raises(CorruptDataError, match=r"bomb states 2,147,483,647 bytes out of .*a bomb"):
        opened(large)


def test_many_large_entries_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored_zip, "MAX_WEIGHT_BYTES", 1_000)
    with pytest.raises(CorruptDataError, match=r"decompresses to 1,460 bytes \(a decompression bomb\?\)"):
        opened(archive())


def test_entries_that_share_their_bytes_are_refused():
    """What makes a bomb out of a small file: a thousand entries of the same compressed zeros."""
    data = archive({"a": b"1" * 500, "b": b"2"})
    second = data.find(b"PK\x01\x02", directory_at(data) + 4)
    shared = data[: second + 42] + struct.pack("<L", 20) + data[second + 46 :]
    with pytest.raises(CorruptDataError, match=r"reaches into what comes after it \(a bomb\?\)"):
        opened(shared)


def test_a_local_header_that_reaches_further_is_refused():
    data = archive({"a": b"1" * 500, "b": b"2"})
    longer = data[:28] + struct.pack("<H", 400) + data[30:]
    with pytest.raises(CorruptDataError, match="a reaches into what comes after it"):
        opened(longer).read("a")


def test_a_directory_of_too_many_entries_is_refused():
    data = archive({f"{number}": b"" for number in range(5_000)})
    with pytest.raises(CorruptDataError, match="a directory of 5,000 entries"):
        opened(data)


@pytest.mark.parametrize(
    ("offset", "value", "problem"),
    [
        (8, b"\x01\x00", "data is encrypted"),
        (8, b"\x00\x20", "data is encrypted"),
        (10, b"\x0c\x00", "compressed by method 12, not by deflate"),
        (38, struct.pack("<L", 0o120777 << 16), "data is a symbolic link"),
        (34, b"\x01\x00", "its directory is damaged"),
        (0, b"PK\x01\x03", "its directory is damaged"),
        (28, b"\xff\xff", "its directory is damaged"),
        (24, b"\xff\xff\xff\xff", "states 4,294,967,295 bytes out of 180"),
        (42, b"\xff\xff\xff\x7f", "reaches into what comes after it"),
        (16, b"1234", "data is damaged: its size or checksum is wrong"),
    ],
)
def test_a_directory_that_lies_is_refused(offset: int, value: bytes, problem: str):
    with pytest.raises(CorruptDataError, match=rf"agent\.zip: refused archive: .*{problem}"):
        read_all(patched(archive(), offset, value))


def test_damaged_contents_are_refused():
    stored = archive()
    with pytest.raises(CorruptDataError, match="data is damaged: its size or checksum"):
        read_all(stored.replace(b"settings", b"sittings", 1))
    deflated = archive({"data": zlib.compress(b"noise")}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptDataError, match=r"data is damaged|data decompresses to another size"):
        read_all(deflated[:36] + b"\xff\xff\xff" + deflated[39:])


@pytest.mark.parametrize("kept", [0, 10, 21, 300, -1, -40])
def test_an_archive_that_is_cut_short_is_refused(kept: int):
    with pytest.raises(CorruptDataError, match="refused archive"):
        opened(archive()[:kept])


def test_an_archive_with_a_comment_or_on_several_disks_is_refused():
    data = archive()
    with pytest.raises(CorruptDataError, match="it does not end as an archive does"):
        opened(data[:-2] + b"\x03\x00abc")
    with pytest.raises(CorruptDataError, match="it is in several parts"):
        opened(data[:-18] + b"\x01\x00" + data[-16:])


def test_a_missing_entry_and_names_that_are_no_text_are_refused():
    with pytest.raises(CorruptDataError, match="it has no weights"):
        opened(archive()).read("weights")
    data = archive({"é": b"1"}).replace("é".encode(), b"\xff\xff")
    with pytest.raises(CorruptDataError, match="its directory is damaged"):
        opened(data)


def test_an_entry_without_a_header_is_refused():
    with pytest.raises(CorruptDataError, match="data is not where the directory says"):
        read_all(b"PK\x03\x05" + archive()[4:])


def test_a_local_name_that_is_no_text_is_refused():
    """Found by fuzzing: the name before an entry's bytes was decoded, and what is no text went through as an error."""
    data = archive({"é": b"1"})
    with pytest.raises(CorruptDataError, match="é is not where the directory says"):
        read_all(data.replace("é".encode(), b"\xff\xff", 1))
