"""Every file of a framework is recognised by that framework's importer, by its content, and by no other."""

from pathlib import Path

import pytest

from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import IMPORTERS
from tests.helpers.fixture_files import unzip
from tests.helpers.minari_files import unpack
from tests.helpers.paths import FIXTURES

NAMES = {importer.name for importer in IMPORTERS}
SOURCES = sorted(
    path.relative_to(FIXTURES).as_posix()
    for path in FIXTURES.glob("*/*")
    if path.parent.name.replace("_", "-") in NAMES and any(path.glob("*.gz"))
)


def recognised_by(source: SourceFiles) -> set[str]:
    return {importer.name for importer in IMPORTERS if importer.recognises(source)}


@pytest.mark.parametrize("fixture", SOURCES)
def test_a_source_is_recognised_by_its_importer_alone(fixture: str, tmp_path: Path):
    expected = {fixture.split("/")[0].replace("_", "-")}
    if fixture.startswith("dopamine_replay"):  # its files are gzip files
        assert recognised_by(SourceFiles(FIXTURES / fixture)) == expected
        return
    folder = unzip(fixture, tmp_path / "source")
    assert recognised_by(SourceFiles(folder)) == expected
    files = sorted(folder.iterdir())
    if len(files) == 1:
        assert recognised_by(SourceFiles(files[0].rename(folder / "renamed"))) == expected


def test_a_dataset_of_minari_is_recognised_by_its_importer_alone(tmp_path: Path):
    assert recognised_by(SourceFiles(unpack("cartpole", tmp_path))) == {"minari"}


def test_there_is_a_file_of_each_framework():
    assert {source.split("/")[0] for source in SOURCES} >= {
        *("cleanrl_jax", "cleanrl_torch", "dopamine_jax", "dopamine_replay", "dopamine_tf"),
        *("gogianu", "stable_baselines3"),
    }
