"""Mutates genuine buffers for as long as one likes: `python -m tests.helpers.fuzz_buffers minari|dopamine`.

Whatever the bytes, an importer may recognise a source or not, read it, or refuse it with UserError or CorruptDataError;
anything else is a finding. `test_minari_damage` and `test_replay_damage` do the same with few examples.
"""

import argparse
import gzip
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from teacher_store.importers.formats import dopamine_replay, minari
from teacher_store.importers.imported import Importer, Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fuzz import mutate
from tests.helpers.minari_files import unpack
from tests.helpers.paths import FIXTURES
from upcycle.errors import CorruptDataError, UserError

_REPLAY: Final = FIXTURES / "dopamine_replay"
_MINARI: Final = ("cartpole", "ends", "frames-jpeg", "stacks-last")
_SLOW_SECONDS: Final = 30.0


def attempt(importer: Importer, folder: Path) -> str:
    """What came of a source: the name of the outcome. Raises whatever a reader may not."""
    source = SourceFiles(folder)
    assert importer.read_experience is not None
    try:
        if not importer.recognises(source):
            return "not recognised"
        experience = importer.read_experience(source, Request(accept_lossy=True))
        rows = sum(block.num_rows for block in experience.rows(0))
    except (CorruptDataError, UserError) as error:
        if "ended the HDF5 library with" in str(error):
            return "libhdf5 ended by a signal"
        return "silent" if "came to nothing" in str(error) else type(error).__name__
    assert 0 <= rows <= experience.num_rows
    return "read"


def prepare(kind: str, folder: Path) -> tuple[Importer, list[Path]]:
    """The importer, and a folder for each genuine buffer."""
    if kind == "minari":
        return minari.IMPORTER, [unpack(name, folder / name) for name in _MINARI]
    folders = [Path(shutil.copytree(path, folder / path.name)) for path in sorted(_REPLAY.iterdir())]
    return dopamine_replay.IMPORTER, folders


def spoil(path: Path, rng: random.Random) -> None:
    """Mutates a file; one that is compressed before its compression or after."""
    data = path.read_bytes()
    inside = path.suffix == ".gz" and rng.random() < 0.8
    data = gzip.decompress(data) if inside else data
    places = (
        sorted(rng.randrange(len(data)) for _ in range(4)) if path.suffix != ".gz" else [0, 40, 100, len(data) - 40]
    )
    stretches = [(max(at, 0), min(max(at, 0) + 64, len(data))) for at in [0, *places]]
    damaged = mutate(data, rng, stretches)
    path.write_bytes(gzip.compress(damaged) if inside else damaged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("minari", "dopamine"))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, outcomes, slowest = random.Random(arguments.seed), Counter[str](), 0.0
    deadline = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as temporary:
        importer, folders = prepare(arguments.kind, Path(temporary))
        while time.monotonic() < deadline:
            folder = rng.choice(folders)
            path = rng.choice([path for path in sorted(folder.rglob("*")) if path.suffix in (".gz", ".hdf5", ".json")])
            genuine = path.read_bytes()
            spoil(path, rng)
            began = time.monotonic()
            try:
                outcome = attempt(importer, folder)
            except Exception:
                finding = Path(f"finding-{importer.name}-{outcomes.total()}.bin")
                finding.write_bytes(path.read_bytes())
                print(f"finding: {folder.name}/{path.name}, kept as {finding}", flush=True)
                raise
            outcomes[outcome] += 1
            if outcome in ("silent", "libhdf5 ended by a signal") and outcomes[outcome] == 1:
                Path(f"finding-{outcome.split()[0]}.bin").write_bytes(path.read_bytes())
                print(f"{outcome}: {folder.name}/{path.name}", flush=True)
            slowest = max(slowest, time.monotonic() - began)
            path.write_bytes(genuine)
    print(f"{outcomes.total()} files, slowest {slowest:.2f} s")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:8} {outcome}")


if __name__ == "__main__":
    main()
