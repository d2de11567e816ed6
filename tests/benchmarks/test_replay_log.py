"""The replay logs that the benchmark of imports makes, as the importer reads them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay_log import recorded_log
from teacher_store.importers.formats.dopamine_replay import IMPORTER
from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles

pytestmark = pytest.mark.slow


def test_a_log_is_full_and_rotated_and_holds_what_was_played_over_and_over(tmp_path: Path):
    folder = recorded_log("Pong-v5", tmp_path, transitions=200, played=100)
    assert recorded_log("Pong-v5", tmp_path, transitions=200, played=100) == folder
    assert IMPORTER.read_experience is not None
    experience = IMPORTER.read_experience(SourceFiles(folder), Request())
    assert int(experience.facts["rows ever added"]) > int(experience.facts["capacity"])
    blocks = list(experience.rows(0))
    frames, final, first, truncated = (
        np.concatenate([getattr(block, name) for block in blocks]) for name in ("frame", "final", "first", "truncated")
    )
    assert len(frames) == 2 * 32 * 5
    assert np.flatnonzero(first).tolist() == list(range(0, 320, 5))
    assert np.flatnonzero(final).tolist() == list(range(4, 320, 5))
    assert np.flatnonzero(truncated).tolist() == list(range(3, 320, 5))
    assert int(np.count_nonzero(~final)) >= 200
    np.testing.assert_array_equal(frames[:160], frames[160:])
    assert len(np.unique(frames[:160].reshape(160, -1), axis=0)) > 4
