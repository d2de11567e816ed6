"""The native kernels and the plain ones: the same bytes out, the same damage refused, nothing else written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from upcycle.errors import CorruptDataError
from upcycle.experience import kernels, native_kernels, plain_kernels
from upcycle.experience.kernel_building import build_kernels

SHAPE, GROUP = (12, 11), 4
UNBUILT = pytest.mark.skipif(bool(native_kernels.why_not), reason="the native kernels have not been built")
every = pytest.mark.parametrize(
    "module", [pytest.param(plain_kernels, id="plain"), pytest.param(native_kernels, id="native", marks=UNBUILT)]
)


def make_frames(rows: int, *, seed: int = 0, noise: int = 5) -> NDArray[Any]:
    """A still background on which `noise` pixels a frame differ; many of them do not compress."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 4, (1, *SHAPE)).astype(np.uint8), rows, axis=0)
    flat = frames.reshape(rows, -1)
    for row in range(rows):
        places = rng.integers(0, flat.shape[1], noise)
        flat[row, places] = rng.integers(0, 256, noise)
    return frames


def make_runs(frames: NDArray[Any], windows: list[tuple[int, int]]) -> tuple[bytes, list[NDArray[np.int64]]]:
    """Blocks of frames, and begins, ends, skips and present of windows (first frame, frames)."""
    blob, bounds = plain_kernels.pack_frames(frames, GROUP)
    places = [(bounds[first - first % GROUP], bounds[first + n], first % GROUP, n) for first, n in windows]
    return blob, [np.array(column, np.int64) for column in zip(*places, strict=True)]


def test_this_build_has_native_kernels_or_says_why() -> None:
    assert kernels.native == (not kernels.why_plain)
    assert kernels.native or "make setup" in kernels.why_plain


@every
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    windows=st.lists(st.tuples(st.integers(0, 19), st.integers(1, 7)), min_size=1, max_size=30),
    noise=st.sampled_from([0, 5, 400]),
)
def test_runs_are_decoded_into_their_rows_and_the_last_frame_is_repeated(
    module: ModuleType, windows: list[tuple[int, int]], noise: int
) -> None:
    frames, width = make_frames(20, noise=noise), 7
    windows = [(first, min(count, 20 - first)) for first, count in windows]
    blob, places = make_runs(frames, windows)
    guarded = np.full((len(windows) + 2, width, *SHAPE), 77, np.uint8)
    assert module.unpack_runs(blob, *places, GROUP, guarded[1:-1]) == -1
    for row, (first, count) in enumerate(windows):
        expected = frames[np.minimum(np.arange(first, first + width), first + count - 1)]
        np.testing.assert_array_equal(guarded[row + 1], expected)
    assert bool((guarded[[0, -1]] == 77).all())


@every
@settings(max_examples=150, deadline=None, derandomize=True)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255), cut=st.integers(0, 40))
def test_damage_is_refused_or_leaves_whole_frames_and_writes_nowhere_else(
    module: ModuleType, position: int, flip: int, cut: int
) -> None:
    blob, places = make_runs(make_frames(20), [(1, 7), (6, 7)])
    data = bytearray(blob)
    data[position % len(data)] ^= flip
    places[1] = np.maximum(places[1] - cut, places[0])
    guarded = np.full((4, 7, *SHAPE), 77, np.uint8)
    damaged = module.unpack_runs(bytes(data), *places, GROUP, guarded[1:-1])
    assert damaged in (-1, 0, 1)
    assert not cut or damaged == 0
    assert bool((guarded[[0, -1]] == 77).all())


@every
def test_a_run_with_bytes_left_over_is_refused(module: ModuleType) -> None:
    blob, places = make_runs(make_frames(20), [(0, 3), (4, 4)])
    places[1][1] += 1
    assert module.unpack_runs(blob, *places, GROUP, np.zeros((2, 7, *SHAPE), np.uint8)) == 1


@every
@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), noise=st.sampled_from([0, 5, 400]), cut=st.integers(0, 9), flip=st.integers(0, 255))
def test_blocks_are_found_or_said_not_to_fill_the_data(
    module: ModuleType, rows: int, noise: int, cut: int, flip: int
) -> None:
    blob, bounds = plain_kernels.pack_frames(make_frames(rows, noise=noise), GROUP)
    data = bytearray(blob)
    data[0] ^= flip
    found = module.find_blocks(bytes(data[: len(data) - cut]), rows, 132)
    if cut == flip == 0:
        np.testing.assert_array_equal(found, bounds)
    else:
        assert found is None
    assert module.find_blocks(blob, rows + 1, 132) is None
    assert rows == 1 or module.find_blocks(blob, rows - 1, 132) is None


@pytest.mark.skipif(not kernels.native, reason="the native kernels have not been built")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 11),
    shape=st.sampled_from([(4,), (12, 11), (84, 84), (300, 260)]),
    values=st.sampled_from([1, 3, 256]),
    seed=st.integers(0, 99),
)
def test_what_either_packs_the_other_unpacks(rows: int, shape: tuple[int, ...], values: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, values, (rows, *shape)).astype(np.uint8)
    for packer, unpacker in ((native_kernels, plain_kernels), (plain_kernels, native_kernels)):
        blob, bounds = packer.pack_frames(frames, GROUP)
        assert len(blob) == bounds[-1] <= frames.nbytes + 4 * rows
        if rows:
            out, one = np.empty_like(frames[None]), np.zeros(1, np.int64)
            places = (one, one + len(blob), one, one + rows)
            assert unpacker.unpack_runs(blob, *places, GROUP, out) == -1
            np.testing.assert_array_equal(out[0], frames)


@every
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    begins=st.lists(st.integers(0, 5000), min_size=1, max_size=20),
    size=st.sampled_from([1, 63, 64, 1000, 300_000]),
    shift=st.integers(0, 17),
)
def test_pieces_are_copied_whatever_their_place(module: ModuleType, begins: list[int], size: int, shift: int) -> None:
    base = np.random.default_rng(0).integers(256, size=5000 + size, dtype=np.uint8)
    memory = np.full(len(begins) * size + shift + 1, 77, np.uint8)
    out = memory[shift:-1].reshape(len(begins), size)
    module.copy_pieces(base, np.array(begins, np.int64), out)
    for row, begin in zip(out, begins, strict=True):
        np.testing.assert_array_equal(row, base[begin : begin + size])
    assert memory[-1] == 77
    assert bool((memory[:shift] == 77).all())


@every
@settings(max_examples=60, deadline=None, derandomize=True)
@given(places=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_pieces_are_joined_in_order(module: ModuleType, places: list[tuple[int, int, int]]) -> None:
    blobs = [bytes(range(40)), bytes(range(100, 140)), bytes(range(200, 240))]
    wanted = [(which, low, low + size) for which, low, size in places if low + size <= 40]
    columns = np.array(wanted, np.int64).reshape(-1, 3).T
    expected = b"".join(blobs[which][low:high] for which, low, high in wanted)
    assert module.join_pieces(blobs, *columns) == expected
    assert module.join_pieces(dict(enumerate(blobs)), *columns) == expected


def test_places_outside_the_data_are_refused() -> None:
    frames = make_frames(8)
    blob, places = make_runs(frames, [(0, 4)])
    out = np.zeros((1, 4, *SHAPE), np.uint8)
    for column, value in ((0, -1), (1, len(blob) + 1), (2, GROUP), (2, -1), (3, 0), (3, 5)):
        wrong = [values.copy() for values in places]
        wrong[column][0] = value
        with pytest.raises(CorruptDataError, match="does not lie in the data"):
            kernels.unpack_runs(blob, *wrong, group=GROUP, out=out)
    base = np.zeros(100, np.uint8)
    for begin in (-1, 91):
        with pytest.raises(ValueError, match="outside"):
            kernels.copy_pieces(base, np.array([begin]), np.zeros((1, 10), np.uint8))


TRY = "from upcycle.experience import kernels; print(kernels.native, kernels.why_plain, kernels.native_kernels.LIBRARY)"


def start_without_library(package: Path, **environment: str) -> "subprocess.Popen[str]":
    """Asks a copy of the package, as a job's working directory holds it, for its kernels."""
    words = {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-c", TRY]
    environment = {name: value for name, value in os.environ.items() if name != "CC"} | words
    return subprocess.Popen(command, cwd=package.parent, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    source = Path(kernels.__file__).parents[1]
    return Path(
        shutil.copytree(source, tmp_path / "upcycle", ignore=shutil.ignore_patterns("_kernels*", "__pycache__"))
    )


@UNBUILT
def test_processes_that_find_no_library_build_it(shipped: Path):
    for process in [start_without_library(shipped) for _ in range(2)]:
        out, _ = process.communicate(timeout=50)
        assert out.split() == ["True", str(shipped / "experience" / "_kernels.so")]
    assert [path.name for path in shipped.rglob("_kernels*")] == ["_kernels.so"]  # nothing half built remains


@pytest.mark.parametrize(
    ("environment", "why"), [({"PATH": ""}, "no C compiler"), ({"CC": "false"}, "compiler failed")]
)
def test_without_a_compiler_the_plain_ones_run_and_say_why(shipped: Path, environment: dict[str, str], why: str):
    out, _ = start_without_library(shipped, **environment).communicate(timeout=50)
    assert out.startswith("False they have not been built")
    assert why in out
    assert list(shipped.rglob("_kernels*")) == []


def test_a_read_only_file_system_is_a_reason_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # as Linux does for files that are not there, too

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setenv("CC", "false")
    source = Path(native_kernels.__file__).with_name("kernels.c")
    assert "compiler failed" in build_kernels(source, tmp_path / "_kernels.so")
