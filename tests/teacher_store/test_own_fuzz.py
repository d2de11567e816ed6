"""A few of the mutations that `fuzz_own` makes for longer."""

import random
from collections import Counter
from pathlib import Path

import pytest

from teacher_store.importers.readers.reference import read_reference
from tests.helpers import fuzz_own


@pytest.mark.parametrize("kind", ["bundle", "reference"])
def test_whatever_the_bytes_they_are_taken_or_refused(kind: str, tmp_path: Path):
    if kind == "bundle":
        genuine, take = fuzz_own.make_bundle(tmp_path), fuzz_own.import_fresh
        spoil = fuzz_own.bundle_spoiler(genuine)
    else:
        genuine, take = fuzz_own.make_reference(tmp_path / "q.npz"), read_reference
        spoil = fuzz_own.reference_spoiler(genuine)
    assert fuzz_own.attempt(take, genuine) == "taken"
    rng, outcomes = random.Random(0), Counter[str]()
    for _ in range(60 if kind == "bundle" else 300):
        spoil(tmp_path / "mutated", rng)
        outcomes[fuzz_own.attempt(take, tmp_path / "mutated")] += 1
    assert outcomes["CorruptDataError"] > 10
    assert outcomes["taken"] > 0, "mutations that are all refused at once reach nothing"
