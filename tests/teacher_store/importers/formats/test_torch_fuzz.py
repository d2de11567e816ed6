"""A few of the mutations that `fuzz` makes for longer, of archives and of what is inside them."""

import random
import tracemalloc
from pathlib import Path

import pytest

from teacher_store.importers.formats import gogianu
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip
from tests.helpers.fuzz import TARGETS, attempt, choose_part, mutate, structure

KINDS = ("cleanrl_torch", "gogianu", "stable_baselines3")


@pytest.mark.parametrize("fixture", [fixture for fixture in TARGETS if fixture.startswith(KINDS)])
def test_whatever_the_bytes_an_importer_reads_or_refuses(fixture: str, tmp_path: Path):
    importer, name, parts_of = TARGETS[fixture]
    path = unzip(fixture, tmp_path) / name
    parts, rng = parts_of(path.read_bytes()), random.Random(0)
    assert len(parts) > 1
    for part in parts:
        path.write_bytes(part.rebuild(part.data))
        assert attempt(importer, path) == "read", "a file must be sound that was only taken apart"
    outcomes = set[str]()
    for _ in range(15):
        part = parts[choose_part(parts, rng)]
        path.write_bytes(part.rebuild(mutate(part.data, rng, structure(part.data))))
        outcomes.add(attempt(importer, path))
    assert outcomes <= {"read", "CorruptDataError", "UserError"}
    assert "CorruptDataError" in outcomes, "mutations that break nothing prove nothing"


def test_reading_a_gzip_file_takes_little_more_memory_than_it_holds(tmp_path: Path):
    """Found by fuzzing: decompressing up to 2 GiB once asked for as much, whatever the file had."""
    path = unzip("gogianu/dqn-zip", tmp_path) / "model_50000000.gz"
    tracemalloc.start()
    assert attempt(gogianu.IMPORTER, path) == "read"
    assert len(SourceFiles(path).gunzip()) > 100_000
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
