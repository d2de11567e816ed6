"""Files of `torch.save` read without it: all kinds of tensors in both formats, and what hostile ones come to."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from teacher_store.importers.readers.torch_file import TorchFile, read_torch_file, starts_torch_file
from tests.helpers.torch_agents import Evil, entry, rezipped, saved
from upcycle.errors import CorruptDataError

BASE = torch.arange(24.0).reshape(2, 3, 4) - 7.5
TENSORS: dict[str, Any] = {
    "contiguous": BASE,
    "transposed": BASE.transpose(0, 2),
    "part": BASE[1, :, 1:3],
    "channels last": BASE.unsqueeze(0).to(memory_format=torch.channels_last),
    "float16": BASE.half(),
    "bfloat16": BASE.bfloat16(),
    "float64": BASE.double(),
    "float64 part": BASE.double()[:, 1:, ::2],
    "parameter": torch.nn.Parameter(BASE),
    "scalar": torch.tensor(3.0),
}
BOTH = pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])


def opened(value: Any, *, in_zip: bool = True) -> TorchFile:
    return read_torch_file(saved(value, in_zip=in_zip), "agent.pt")


def value_of(file: TorchFile) -> Any:
    return file.value


def array(tensor: Any, *, in_zip: bool = True) -> np.ndarray[Any, Any]:
    file = opened({"tensor": tensor}, in_zip=in_zip)
    return file.array(value_of(file)["tensor"], "agent.pt: tensor")


@BOTH
@pytest.mark.parametrize("name", TENSORS)
def test_values_are_those_that_were_saved(name: str, in_zip: bool):
    tensor = TENSORS[name].detach()
    found = array(TENSORS[name], in_zip=in_zip)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tensor.float().numpy())


@BOTH
def test_what_else_a_checkpoint_holds_is_read(in_zip: bool):
    module = torch.nn.Linear(2, 3)
    checkpoint = {
        "step": 50,
        "args": {"seed": 1, "name": "dqn", "rates": (0.1, None), "tracked": False},
        "size": torch.Size([2, 3]),
        "numpy": np.float64(0.5),
        "weights": module.state_dict(),
    }
    value = value_of(opened(checkpoint, in_zip=in_zip))
    assert (value["step"], value["args"], value["size"]) == (50, checkpoint["args"], (2, 3))
    assert set(value["weights"]) == {"weight", "bias"}


@BOTH
def test_tensors_that_share_their_numbers_are_each_read(in_zip: bool):
    file = opened({"all": BASE, "row": BASE[0]}, in_zip=in_zip)
    np.testing.assert_array_equal(file.array(value_of(file)["row"], "row"), BASE[0].numpy())


@BOTH
def test_files_are_told_by_their_beginning(in_zip: bool):
    assert starts_torch_file(saved(BASE, in_zip=in_zip)[:300])
    assert not starts_torch_file(b"PK\x03\x04" + bytes(300))
    assert not starts_torch_file(pickle.dumps(BASE.numpy()))
    with pytest.raises(CorruptDataError, match=r"agent\.pt: is no file of torch\.save"):
        read_torch_file(b"text", "agent.pt")


class TestTensors:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_finite_are_refused(self, value: float):
        with pytest.raises(CorruptDataError, match="tensor holds values that are not finite"):
            array(torch.tensor([1.0, value]))

    def test_values_that_float32_cannot_hold_are_refused(self):
        with pytest.raises(CorruptDataError, match="not finite"):
            array(torch.tensor([1e200], dtype=torch.float64))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.int16])
    def test_numbers_that_are_no_weights_are_refused(self, dtype: torch.dtype):
        with pytest.raises(CorruptDataError, match=r"tensor is a tensor of .*, no weights"):
            array(torch.ones(3).to(dtype))

    @pytest.mark.parametrize("value", [1.5, "text", None, [BASE]])
    def test_what_is_no_tensor_is_refused(self, value: Any):
        with pytest.raises(CorruptDataError, match=r"is a .*, no tensor"):
            array(value)

    @BOTH
    def test_one_number_for_a_whole_tensor_is_refused(self, in_zip: bool):
        """It would take any amount of memory: `expand` gives a stride of 0."""
        with pytest.raises(
            CorruptDataError, match=r"shape \(1099511627776,\), strides \(0,\) and offset 0 in a storage"
        ):
            array(torch.ones(1).expand(1 << 40), in_zip=in_zip)

    def test_an_empty_tensor_is_refused(self):
        with pytest.raises(CorruptDataError, match=r"has shape \(0,\)"):
            array(torch.ones(0))

    def test_tensors_that_name_the_same_numbers_again_and_again_are_refused(self):
        large = torch.ones(100_000)
        file = opened({str(number): large for number in range(4)})
        file.array(value_of(file)["0"], "0")
        with pytest.raises(CorruptDataError, match="the tensors up to this one are larger than the file"):
            file.array(value_of(file)["1"], "1")

    def test_sparse_tensors_are_refused(self):
        with pytest.raises(CorruptDataError, match=r"it would construct torch\._utils\._rebuild_sparse_tensor"):
            array(torch.ones(2, 2).to_sparse())

    def test_a_whole_module_is_refused(self):
        with pytest.raises(CorruptDataError, match=r"agent\.pt: refused: it would construct torch\.nn\.modules"):
            array(torch.nn.Linear(2, 2))


@BOTH
def test_a_hostile_pickle_runs_nothing(in_zip: bool, tmp_path: Path):
    data = saved({"weights": BASE, "more": Evil(tmp_path / "executed")}, in_zip=in_zip)
    with pytest.raises(CorruptDataError, match=r"agent\.pt: refused: it would construct pathlib\.Path\.touch|getattr"):
        read_torch_file(data, "agent.pt")
    assert not list(tmp_path.iterdir())


def swapped(old: bytes, new: bytes, *, count: int = 1) -> Callable[[bytes], bytes]:
    def change(pickled: bytes) -> bytes:
        assert old in pickled
        return pickled.replace(old, new, count)

    return change


class TestPickles:
    """Of the zip format, with a sound archive around them."""

    def read(self, change: Callable[[bytes], bytes], value: Any = None) -> None:
        data = saved(BASE if value is None else value)
        file = read_torch_file(rezipped(data, {"data.pkl": change(entry(data, "data.pkl"))}), "agent.pt")
        file.array(file.value, "agent.pt: tensor")

    def test_an_unchanged_one_is_sound(self):
        self.read(bytes)

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            (b"K\x18tq", b"K\x17tq", r"in a storage of 23 numbers"),
            (b"K\x18tq", b"J\x00\x00\x00\x40tq", r"a storage of 1,073,741,824 numbers has 96 bytes"),
            (b"K\x18tq", b"J\xff\xff\xff\xfftq", "a length that is none"),
            (b"K\x18tq", b"Ntq", "a length that is none"),
            (b"QK\x00", b"QK\x01", r"and offset 1 in a storage of 24 numbers"),
            (b"QK\x00", b"QJ\xff\xff\xff\xff", "a length that is none"),
            (b"K\x02K\x03K\x04", b"K\x03K\x03K\x04", r"shape \(3, 3, 4\)"),
            (b"K\x02K\x03K\x04", b"K\x02\x88K\x04", "a length that is none"),
            (b"K\x02K\x03K\x04", b"K\x02K\x03G?\xf0\0\0\0\0\0\0", "a length that is none"),
            (b"K\x0cK\x04K\x01", b"K\x0cK\x04K\x02", r"strides \(12, 4, 2\)"),
            (b"K\x0cK\x04K\x01\x87", b"K\x0cK\x04\x86", r"shape \(2, 3, 4\) and strides \(12, 4\)"),
            (b"FloatStorage", b"DoublStorage", r"it would construct torch\.DoublStorage"),
            (b"FloatStorage", b"BoolStorage", "of bool, no weights"),
            (b"storage", b"strange", "it refers to something outside of it that is no storage"),
            (b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00../0", "a storage without a type or a name"),
            (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007", "it has no archive/data/7"),
            (b"_rebuild_tensor_v2", b"_rebuild_tensor_v9", r"construct torch\._utils\._rebuild_tensor_v9"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, old: bytes, new: bytes, problem: str):
        with pytest.raises(CorruptDataError, match=rf"agent\.pt: .*{problem}"):
            self.read(swapped(old, new))

    def test_bytes_after_the_pickle_are_refused(self):
        with pytest.raises(CorruptDataError, match="4 bytes after its pickle"):
            self.read(lambda pickled: pickled + b"more")

    def test_one_storage_of_two_lengths_is_refused(self):
        with pytest.raises(CorruptDataError, match="its storage 0 has two lengths or types"):
            self.read(swapped(b"K\x18tq", b"K\x17tq"), value=[BASE, BASE[0]])


class TestArchives:
    def test_another_order_of_bytes_is_refused(self):
        with pytest.raises(CorruptDataError, match="not in the order of little-endian machines"):
            read_torch_file(rezipped(saved(BASE), {"byteorder": b"big"}), "agent.pt")

    def test_a_storage_that_is_cut_short_is_refused(self):
        file = read_torch_file(rezipped(saved(BASE), {"data/0": bytes(92)}), "agent.pt")
        with pytest.raises(CorruptDataError, match="a storage of 24 numbers has 92 bytes"):
            file.array(file.value, "tensor")

    def test_an_archive_without_entries_is_refused(self):
        """It once came to an error of Python's."""
        empty = b"PK\x03\x04" + b"PK\x05\x06" + bytes(18)
        with pytest.raises(CorruptDataError, match="it has 0 pickles"):
            read_torch_file(empty, "agent.pt")


class TestLegacy:
    @pytest.fixture
    def data(self) -> bytes:
        return saved(BASE, in_zip=False)

    def test_every_length_but_the_whole_is_refused(self, data: bytes):
        for kept in [*range(0, len(data), 7), len(data) - 1]:
            with pytest.raises(CorruptDataError, match=r"agent\.pt: "):
                read_torch_file(data[:kept], "agent.pt")

    def test_bytes_after_the_storages_are_refused(self, data: bytes):
        with pytest.raises(CorruptDataError, match="4 bytes after its storages"):
            read_torch_file(data + b"more", "agent.pt")

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            (b"M\xe9\x03", b"M\xe8\x03", "is no file of torch.save"),
            (b"\x88X\n\x00\x00\x00type_sizes", b"\x89X\n\x00\x00\x00type_sizes", "order of little-endian machines"),
            (struct.pack("<q", 24), struct.pack("<q", 25), "cut short, or has others"),
            (struct.pack("<q", 24), struct.pack("<q", -1), "cut short, or has others"),
            (b"K\x18Nt", b"K\x19Nt", "a storage of 25 numbers is cut short, or has others"),
            (b"K\x18Nt", b"K\x18K\x00t", "it refers to something outside of it that is no storage"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, old: bytes, new: bytes, problem: str, data: bytes):
        with pytest.raises(CorruptDataError, match=problem):
            read_torch_file(swapped(old, new)(data), "agent.pt")

    def test_storages_that_no_tensor_has_are_refused(self, data: bytes):
        key = data[data.rfind(b"]q\x00") :][4:]
        changed = data.replace(key[:20], key[:5] + b"x" + key[6:20])
        with pytest.raises(CorruptDataError, match="its storages are not those of its tensors"):
            read_torch_file(changed, "agent.pt")
