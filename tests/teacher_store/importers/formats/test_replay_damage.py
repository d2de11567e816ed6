"""Dopamine replay buffers with bytes changed, before and inside compression: read, or refused, nothing else."""

import gzip
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teacher_store.importers.formats.dopamine_replay import IMPORTER
from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.paths import FIXTURES
from upcycle.errors import CorruptDataError, UserError

WRAPPED = FIXTURES / "dopamine_replay" / "time_limits"
FILES = sorted(path.name for path in WRAPPED.glob("*.gz"))
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)


def read_all(folder: Path) -> None:
    source = SourceFiles(folder)
    assert IMPORTER.read_experience is not None
    with suppress(CorruptDataError, UserError):
        if IMPORTER.recognises(source):
            for _ in IMPORTER.read_experience(source, Request()).rows(0):
                pass


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, inside=st.booleans(), cut=st.integers(0, 30))
@pytest.mark.parametrize("name", FILES)
def test_nothing_but_a_refusal_comes_of_damage(
    name: str, changes: list[tuple[int, int]], inside: bool, cut: int, tmp_path: Path
):
    shutil.copytree(WRAPPED, tmp_path / "buffer", dirs_exist_ok=True)
    path = tmp_path / "buffer" / name
    data = bytearray(gzip.decompress(path.read_bytes()) if inside else path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    damaged = bytes(data[: len(data) - cut])
    path.write_bytes(gzip.compress(damaged) if inside else damaged)
    read_all(tmp_path / "buffer")
