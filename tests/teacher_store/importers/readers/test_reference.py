"""The file of another framework's values, and what mutations of it have found in a reader that used NumPy's own."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from teacher_store.importers.readers.reference import read_reference
from upcycle.errors import CorruptDataError

OBSERVATIONS = np.arange(800, dtype=np.uint8).reshape(2, 4, 10, 10)
VALUES = np.arange(8, dtype=np.float64).reshape(2, 4)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def archive(path: Path, observations: bytes, values: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("observations.npy", observations)
        file.writestr("q_values.npy", values)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_is_read(save: object, tmp_path: Path):
    assert callable(save)
    save(tmp_path / "q.npz", observations=OBSERVATIONS, q_values=VALUES)
    observations, values, _ = read_reference(tmp_path / "q.npz")
    np.testing.assert_array_equal(observations, OBSERVATIONS)
    np.testing.assert_array_equal(values, VALUES.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"no array", "no NumPy array|cut off"),
        (npy(VALUES).replace(b"'shape': (2, 4), }", b"'shape': (2, 4)   "), "an array of another kind"),
        (npy(VALUES).replace(b"(2, 4), }     ", b"(2, 400000), }"), r"shape \(2, 400000\) in"),
        (npy(VALUES)[:-1], "in 191 bytes|cut off"),
        (npy(VALUES * np.nan), "empty or not finite"),
        (npy(VALUES.astype(np.int64)), "not observations"),
        (npy(VALUES[:1]), "not observations"),
    ],
)
def test_other_values_are_refused(values: bytes, message: str, tmp_path: Path):
    with pytest.raises(CorruptDataError, match=message):
        read_reference(archive(tmp_path / "q.npz", npy(OBSERVATIONS), values))
