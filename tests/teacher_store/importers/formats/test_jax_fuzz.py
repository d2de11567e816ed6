"""A few of the mutations that `fuzz` makes for longer, and what it has found."""

import random
import tracemalloc
from pathlib import Path

import pytest

from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip
from tests.helpers.fuzz import TARGETS, attempt, mutate, structure


@pytest.mark.parametrize("fixture", [fixture for fixture in TARGETS if "jax" in fixture or "tf" in fixture])
def test_whatever_the_bytes_an_importer_reads_or_refuses(fixture: str, tmp_path: Path):
    importer, name, _ = TARGETS[fixture]
    path = unzip(fixture, tmp_path) / name
    genuine, rng = path.read_bytes(), random.Random(0)
    assert attempt(importer, path) == "read"
    outcomes = set[str]()
    for _ in range(25):
        path.write_bytes(mutate(genuine, rng, structure(genuine)))
        outcomes.add(attempt(importer, path))
    assert outcomes <= {"read", "CorruptDataError", "UserError"}
    assert "CorruptDataError" in outcomes, "mutations that break nothing prove nothing"


def test_reading_a_small_file_takes_little_memory(tmp_path: Path):
    """A read of up to 2 GiB once asked for as much, whatever the file had."""
    path = tmp_path / "agent"
    path.write_bytes(b"small")
    tracemalloc.start()
    assert SourceFiles(path).read() == b"small"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
