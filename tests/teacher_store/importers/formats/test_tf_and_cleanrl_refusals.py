"""What the importers of Dopamine's TensorFlow agents and of CleanRL's refuse, and files of anything else."""

from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from teacher_store.importers.formats import cleanrl_jax, dopamine_jax, dopamine_tf
from teacher_store.importers.imported import ImportedAgent, Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import IMPORTERS
from tests.helpers.fixture_files import unzip
from tests.helpers.jax_agents import Params, layer, nature
from upcycle.errors import CorruptDataError, UserError


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])


class TestTensorFlow:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return unzip("dopamine_tf/slim", tmp_path / "checkpoints")

    @staticmethod
    def read(folder: Path) -> ImportedAgent | None:
        assert dopamine_tf.IMPORTER.read_agent is not None
        return dopamine_tf.IMPORTER.read_agent(SourceFiles(folder / "tf_ckpt-3.index"), Request())

    @staticmethod
    def rewrite(folder: Path, old: bytes, new: bytes, count: int = -1) -> None:
        path = folder / "tf_ckpt-3.index"
        data = path.read_bytes()
        assert len(old) == len(new)
        assert old in data
        path.write_bytes(data.replace(old, new, count))

    def test_values_that_are_cut_short_are_refused(self, folder: Path):
        (folder / "tf_ckpt-3.data-00000-of-00001").write_bytes(b"1234")
        with pytest.raises(
            CorruptDataError, match=r"data-00000-of-00001: Online/Conv/biases: shape \(4,\) in 16 bytes"
        ):
            self.read(folder)

    def test_values_that_are_missing_are_refused(self, folder: Path):
        (folder / "tf_ckpt-3.data-00000-of-00001").unlink()
        with pytest.raises(CorruptDataError, match=r"data-00000-of-00001: cannot be read"):
            self.read(folder)

    def test_values_behind_a_link_are_refused(self, folder: Path, tmp_path: Path):
        data = folder / "tf_ckpt-3.data-00000-of-00001"
        data.rename(tmp_path / "elsewhere")
        data.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CorruptDataError, match="a link"):
            self.read(folder)

    def test_a_pickle_beside_that_is_hostile_is_refused(self, folder: Path):
        (folder / "ckpt.3").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
        with pytest.raises(CorruptDataError, match=r"ckpt\.3: refused: it would construct posix\.system"):
            self.read(folder)

    def test_several_files_of_values_are_refused(self, folder: Path):
        self.rewrite(folder, b"\x00\x00\x06\x08\x01\x1a\x02\x08\x01", b"\x00\x00\x06\x08\x02\x1a\x02\x08\x01", 1)
        with pytest.raises(CorruptDataError, match="values in 2 files"):
            self.read(folder)

    def test_a_network_with_other_variables_is_refused(self, folder: Path):
        self.rewrite(folder, b"Online/Conv/biases", b"Online/Covn/biases")
        with pytest.raises(UserError, match="holds a network with the variable Online/Covn/biases"):
            self.read(folder)

    def test_compressed_blocks_are_refused(self, folder: Path):
        path = folder / "tf_ckpt-3.index"
        data = bytearray(path.read_bytes())
        footer, numbers, shift = data[-48:], [0], 0
        for byte in footer[:20]:  # offset and size of the filters' block, then of the index's
            numbers[-1] |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                numbers, shift = [*numbers, 0], 0
        data[numbers[2] + numbers[3]] = 1
        path.write_bytes(data)
        with pytest.raises(CorruptDataError, match="a block with compression 1; only blocks without are supported"):
            self.read(folder)


class TestCleanRl:
    @staticmethod
    def array(value: Any, code: int = 1) -> msgpack.ExtType:
        value = np.asarray(value)
        return msgpack.ExtType(code, msgpack.packb([list(value.shape), value.dtype.name, value.tobytes()]))

    @classmethod
    def packed(cls, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: cls.packed(value) for key, value in tree.items()}  # pyright: ignore[reportUnknownVariableType]
        return cls.array(tree) if isinstance(tree, np.ndarray) else tree

    @staticmethod
    def read(folder: Path, value: Any) -> ImportedAgent | None:
        path = folder / "agent.cleanrl_model"
        data = value if isinstance(value, bytes) else cast(bytes, msgpack.packb(value))
        path.write_bytes(data)
        assert cleanrl_jax.IMPORTER.read_agent is not None
        return cleanrl_jax.IMPORTER.read_agent(SourceFiles(path), Request())

    @classmethod
    def sound(cls) -> Params:
        return cls.packed({"params": nature(flat=49 * 8)})

    def test_the_model_that_the_others_are_made_of_is_sound(self, tmp_path: Path):
        assert self.read(tmp_path, self.sound()) is not None

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (msgpack.ExtType(1, b""), "damaged msgpack"),
            (msgpack.ExtType(1, msgpack.packb([[2], "float32", b"1234"])), r"shape \(2,\) and dtype float32 with 4"),
            (msgpack.ExtType(1, msgpack.packb([[-1], "float32", b"1234"])), r"an array of the shape \[-1\]"),
            (msgpack.ExtType(1, msgpack.packb([[2**62, 4], "float32", b""])), "an array of the shape"),
            (msgpack.ExtType(1, msgpack.packb([[True], "float32", b"1234"])), r"an array of the shape \[True\]"),
            (msgpack.ExtType(1, msgpack.packb([[1] * 9, "float32", b"1234"])), "an array of the shape"),
            (msgpack.ExtType(1, msgpack.packb([[1], "object", b"12345678"])), "an array of dtype 'object'"),
            (msgpack.ExtType(1, msgpack.packb([[1], "f4,f4", b"12345678"])), "an array of dtype 'f4,f4'"),
            (msgpack.ExtType(1, msgpack.packb([1, 2])), r"no \(shape, dtype, bytes\)"),
            (msgpack.ExtType(1, msgpack.packb({"a": 1})), r"no \(shape, dtype, bytes\)"),
            (msgpack.ExtType(1, msgpack.packb(["a", "float32", b""])), r"no \(shape, dtype, bytes\)"),
            (msgpack.ExtType(2, msgpack.packb([1.0, 2.0])), "an extension of type 2"),
            (msgpack.Timestamp(1), "is a Timestamp, no array"),
            ({"__msgpack_chunked_array__": True}, "do not fit together"),
            ({"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": 1}}, "than flat arrays"),
            ({"__msgpack_chunked_array__": True, "shape": {"0": "2"}, "chunks": {"0": 1}}, "do not fit together"),
            ({"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}, "nested deeper than 8"),
        ],
    )
    def test_arrays_that_are_none_are_refused(self, value: Any, problem: str, tmp_path: Path):
        model = self.sound()
        model["params"]["Dense_1"]["bias"] = value
        with pytest.raises(CorruptDataError, match=rf"agent\.cleanrl_model: .*{problem}"):
            self.read(tmp_path, model)

    def test_chunks_must_make_up_the_array(self, tmp_path: Path):
        model = self.sound()
        chunks = {"0": self.array(np.zeros(3, np.float32)), "1": self.array(np.zeros(2, np.float32))}
        bias = {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": chunks}
        model["params"]["Dense_1"]["bias"] = bias
        with pytest.raises(CorruptDataError, match=r"Dense_1/bias: .*do not make up its shape \(4,\)"):
            self.read(tmp_path, model)

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"\x81\xa6params\x81\xa1a\xdd\xff\xff\xff\xff", "damaged msgpack"),
            (b"\x81\xa6params\x81\xa1a" + b"\x91" * 100_000, "damaged msgpack"),
            (b"\x81\xa6params\x81\xa1a" + b"\xdc\x0f\xff" * 5_000, "damaged msgpack"),
            (b"\x81\xa6params\x81\xa1a\xc6\x7f\xff\xff\xff", "damaged msgpack"),
            (b"\x81\xa6params\x81\xa1a\xc0 and more", "damaged msgpack"),
            (b"\x81\xa6params\x81\xa2\xff\xff\xc0", "damaged msgpack"),
            (b"\x81\xa6params\x81\x01\xc0", "damaged msgpack"),
            (b"\x81\xa6params\x80", "a network without convolutions"),
            (b"\x81\xa6params\x81\xa6Conv_0\xc0", "Conv_0 is a NoneType"),
        ],
    )
    def test_lengths_that_lie_cost_no_memory(self, data: bytes, problem: str, tmp_path: Path):
        with pytest.raises((CorruptDataError, UserError), match=problem):
            self.read(tmp_path, data)

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"n_atoms": 21, "v_min": -10, "v_max": 5}, "has a support from -10 to 5; supported are those that lie"),
            ({"n_atoms": 21, "v_min": -1e10, "v_max": 1e10}, "has a support from"),
            ({"n_atoms": 1, "v_min": -5, "v_max": 5}, "n_atoms = 1"),
            ({"n_atoms": 21, "v_max": 5}, "has no n_atoms, v_min and v_max"),
            ({"n_atoms": 21.0, "v_min": -5, "v_max": 5}, "has no n_atoms"),
            ({"n_atoms": 20, "v_min": -5, "v_max": 5}, "84 outputs, neither at most 18 actions nor 20 atoms"),
            (None, "args is no map"),
        ],
    )
    def test_distributions_of_other_kinds_are_refused(self, arguments: Any, problem: str, tmp_path: Path):
        weights = self.packed({"params": nature(outputs=84, flat=49 * 8)})
        with pytest.raises((CorruptDataError, UserError), match=problem):
            self.read(tmp_path, {"model_weights": weights, "args": arguments})

    def test_a_model_of_other_frames_is_refused(self, tmp_path: Path):
        params = nature(flat=49 * 8) | {"Conv_0": layer(8, 8, 3, 4)}
        with pytest.raises(CorruptDataError, match="a network of 3 frames"):
            self.read(tmp_path, self.packed({"params": params}))


@pytest.mark.parametrize("fixture", ["dopamine_jax/nature-42", "dopamine_tf/keras-42", "cleanrl_jax/nature"])
def test_files_that_are_cut_short_are_refused(fixture: str, tmp_path: Path):
    folder = unzip(fixture, tmp_path / "agent")
    (importer,) = [importer for importer in IMPORTERS if importer.name == fixture.split("/")[0].replace("_", "-")]
    for path in folder.iterdir():
        cut_short(path)
    assert importer.read_agent is not None
    assert importer.recognises(SourceFiles(folder)) == ("tf" not in fixture)  # an index is told by its end
    (path,) = [path for path in folder.iterdir() if path.name.startswith(("ckpt", "nature"))]
    if "tf" not in fixture:
        with pytest.raises(CorruptDataError, match=path.name):
            importer.read_agent(SourceFiles(folder), Request())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\x80\x04",
        b"\x80\x04}.",
        b"\x81\xa6params",
        b"\x82\xa4args",
        b"PK\x03\x04 online_params Online/",
        b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
        b"Online/" + b"\x57\xfb\x80\x8b\x24\x75\x47",
        b"text",
    ],
)
def test_other_files_are_not_recognised(data: bytes, tmp_path: Path):
    (tmp_path / "ckpt.3").write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "ckpt.3")
    for importer in (cleanrl_jax.IMPORTER, dopamine_jax.IMPORTER, dopamine_tf.IMPORTER):
        assert not importer.recognises(SourceFiles(tmp_path))
        assert not importer.recognises(SourceFiles(tmp_path / "ckpt.3"))
