"""Mutates what Upcycle's own users give it: `python -m tests.helpers.fuzz_own bundle|reference --minutes 10`.

Whatever the bytes, they are taken or refused with UserError or CorruptDataError; anything else is a finding. Bundles
are mutated as they are, and inside with every checksum mended, so that what is behind the checksums is reached.
"""

import argparse
import hashlib
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.teachers.bundles import import_bundle
from teacher_store.importers.formats.upcycle_bundle import is_bundle
from teacher_store.importers.readers.reference import read_reference
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.store.bundle import RECORD, export_bundle
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from tests.helpers.fuzz import entries, mutate
from tests.helpers.stored import ENV, SCORE, make_log, make_training_state, make_weights, publish
from tests.helpers.teacher_bundles import rewrite
from upcycle.config.run import NetworkConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.snapshots import write_snapshot

NETWORK: Final = NetworkConfig(width=0.0625, hidden=2)

Spoil = Callable[[Path, random.Random], None]
"""Writes a mutated file."""


def make_bundle(folder: Path) -> Path:
    """A bundle with everything: weights that compute, training state, log, two ancestors."""
    store = TeacherStore(folder / "store", bundled=None)
    first = publish(store, make_weights(folder, 1), name="first")
    second = publish(store, make_weights(folder, 2), name="second", parents=(first.id,))
    network = build_network(NETWORK, frame_shape=(42, 42), stack=4, num_actions=6)
    write_snapshot(folder / "weights", to_numpy(network.state_dict()), {})
    make_training_state(folder / "state")
    store.publish(
        NewTeacher(
            name="pong",
            env=ENV,
            network=NETWORK,
            frame_shape=(42, 42),
            frame_stack=4,
            num_actions=6,
            weights=folder / "weights",
            score=SCORE,
            training_state=folder / "state",
            log_directory=make_log(folder / "log", chunks=2),
            parents=(second.id,),
        )
    )
    export_bundle(store, "pong", folder / "pong.zip")
    return folder / "pong.zip"


def bundle_spoiler(bundle: Path) -> Spoil:
    """Of a file of the bundle, or of the bundle itself."""
    whole = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}

    def spoil(path: Path, rng: random.Random) -> None:
        if rng.random() < 0.3:
            path.write_bytes(mutate(whole, rng, _ends(whole)))
            return
        name = rng.choice([*files, *[RECORD] * 4])
        data = files[name]
        changed = mutate(data, rng, [(0, len(data))] if len(data) < 8192 else _ends(data))
        old, new = (hashlib.sha256(content).hexdigest().encode() for content in (data, changed))
        changes: dict[str, Callable[[bytes], bytes] | None] = {name: lambda _: changed}
        if name != RECORD:
            changes[RECORD] = lambda record: record.replace(old, new)
        rewrite(bundle, path, changes, mend_sums=rng.random() < 0.8)

    return spoil


def import_fresh(path: Path) -> None:
    """Takes a bundle into a store of its own, in which nothing is left behind."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = TeacherStore(Path(folder) / "store", bundled=None)
        is_bundle(SourceFiles(path))
        try:
            import_bundle(store, path)
            store.known()
        finally:
            left = list(store.staging.iterdir())
        assert not left, left


def make_reference(path: Path) -> Path:
    observations = np.arange(800, dtype=np.uint8).reshape(2, 4, 10, 10)
    np.savez_compressed(path, allow_pickle=False, observations=observations, q_values=np.ones((2, 4), np.float32))
    return path


def reference_spoiler(reference: Path) -> Spoil:
    """Of an array of the file, or of the file itself."""
    parts = entries(reference.read_bytes())

    def spoil(path: Path, rng: random.Random) -> None:
        part = rng.choice(parts)
        path.write_bytes(part.rebuild(mutate(part.data, rng, _ends(part.data))))

    return spoil


def _ends(data: bytes) -> list[tuple[int, int]]:
    return [(0, min(len(data), 200)), (max(0, len(data) - 200), len(data))]


def attempt(take: Callable[[Path], object], path: Path) -> str:
    """What came of a file. Raises whatever may not be raised."""
    try:
        take(path)
    except (CorruptDataError, UserError) as error:
        return type(error).__name__
    return "taken"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("bundle", "reference"))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, deadline, outcomes = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes, Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary), Path(temporary) / "mutated"
        if arguments.kind == "bundle":
            spoil, take = bundle_spoiler(make_bundle(folder)), import_fresh
        else:
            spoil, take = reference_spoiler(make_reference(folder / "q.npz")), read_reference
        while time.monotonic() < deadline:
            spoil(path, rng)
            try:
                outcomes[attempt(take, path)] += 1
            except BaseException:
                finding = Path(f"finding-{arguments.kind}-{outcomes.total()}.bin")
                finding.write_bytes(path.read_bytes())
                print(f"finding: kept as {finding}")
                raise
    print(f"{outcomes.total()} files: {dict(sorted(outcomes.items()))}")


if __name__ == "__main__":
    main()
