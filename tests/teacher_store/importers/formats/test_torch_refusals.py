"""What the importers of CleanRL's, Gogianu's and Stable-Baselines3's PyTorch agents refuse."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from teacher_store.importers.formats import cleanrl_torch, gogianu, stable_baselines3
from teacher_store.importers.imported import ImportedAgent, Importer, Request
from teacher_store.importers.readers.source_files import SourceFiles
from teacher_store.importers.registry import IMPORTERS
from tests.helpers.torch_agents import Evil, Tensors, cleanrl, dqn_zip, layer, nature, read, saved
from upcycle.errors import CorruptDataError, UserError


def gogianu_names() -> list[str]:
    return [*(f"_AtariNet__features.{place}" for place in (0, 2, 4)), "_AtariNet__head.0", "_AtariNet__head.2"]


def dqn_names(prefix: str = "q_net") -> list[str]:
    extractor = f"{prefix}.features_extractor"
    return [*(f"{extractor}.cnn.{place}" for place in (0, 2, 4)), f"{extractor}.linear.0", f"{prefix}.q_net.0"]


def cleanrl_file(tensors: Any) -> bytes:
    return saved(tensors)


def gogianu_file(tensors: Any) -> bytes:
    return gzip.compress(saved({"estimator_state": tensors}), 1)


KINDS: dict[str, tuple[Importer, str, Callable[[Path, Any], bytes], Callable[[], Tensors], list[str]]] = {
    "cleanrl": (
        cleanrl_torch.IMPORTER,
        "agent.cleanrl_model",
        lambda _, tensors: cleanrl_file(tensors),
        cleanrl,
        [f"network.{place}" for place in (0, 2, 4, 7, 9)],
    ),
    "gogianu": (
        gogianu.IMPORTER,
        "model_1.gz",
        lambda _, tensors: gogianu_file(tensors),
        lambda: nature(*gogianu_names()),
        gogianu_names(),
    ),
    "sb3": (
        stable_baselines3.IMPORTER,
        "agent.zip",
        lambda folder, tensors: dqn_zip(folder, {"policy.pth": saved(tensors)}),
        lambda: nature(*dqn_names()),
        dqn_names(),
    ),
}


WRONG: list[tuple[int, str, Callable[[Tensor], Any], str]] = [
    (
        0,
        "weight",
        lambda tensor: tensor[:, :, :7],
        r"weight has the shape \(4, 4, 7, 8\), not \(\*, \*, 8, 8\)",
    ),
    (0, "weight", lambda tensor: tensor[0], r"weight has the shape \(4, 8, 8\), not \(\*, \*, 8, 8\)"),
    (1, "weight", lambda tensor: tensor[:, :3], r"weight has the shape \(8, 3, 4, 4\), not \(\*, 4, 4, 4\)"),
    (3, "weight", lambda tensor: tensor[:, :-1], r"weight has the shape \(6, 391\), not \(\*, 392\)"),
    (4, "weight", lambda tensor: tensor.T.contiguous(), r"weight has the shape \(6, 4\), not \(\*, 6\)"),
    (2, "bias", lambda tensor: tensor[:-1], r"bias has the shape \(7,\), not \(8,\)"),
    (2, "bias", lambda tensor: tensor[0], r"bias has the shape \(\), not \(8,\)"),
    (3, "bias", lambda tensor: tensor + float("nan"), "bias holds values that are not finite"),
    (4, "weight", lambda tensor: tensor / 0, "weight holds values that are not finite"),
    (4, "bias", lambda tensor: tensor.int(), "bias is a tensor of int32, no weights"),
    (4, "bias", lambda tensor: list(tensor), "bias is a list, no tensor"),
    (3, "bias", lambda _: torch.ones(1).expand(1 << 40), r"shape \(1099511627776,\)"),
]
"""Which layer, which part of it, what becomes of it, and what is said about that."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read_kind(kind: str, folder: Path, tensors: Any) -> ImportedAgent:
    importer, name, write, _, _ = KINDS[kind]
    return read(importer, folder / name, write(folder, tensors))


class TestAll:
    def test_the_agent_that_the_others_are_made_of_is_sound(self, kind: str, tmp_path: Path):
        agent = read_kind(kind, tmp_path, KINDS[kind][3]())
        assert (agent.network.width, agent.network.hidden, agent.num_actions) == (1 / 8, 6, 4)

    @pytest.mark.parametrize(("place", "part", "change", "problem"), WRONG)
    def test_tensors_that_are_wrong_are_refused(
        self, kind: str, place: int, part: str, change: Callable[[Any], Any], problem: str, tmp_path: Path
    ):
        tensors = KINDS[kind][3]()
        name = f"{KINDS[kind][4][place]}.{part}"
        tensors[name] = change(tensors[name])
        with pytest.raises(CorruptDataError, match=rf"{KINDS[kind][1]}.*: {name.rpartition('.')[0]}\..*{problem}"):
            read_kind(kind, tmp_path, tensors)

    def test_a_missing_tensor_is_named(self, kind: str, tmp_path: Path):
        tensors = KINDS[kind][3]()
        name = f"{KINDS[kind][4][1]}.bias"
        del tensors[name]
        with pytest.raises(CorruptDataError, match=f"{KINDS[kind][1]}.*: missing: {name}"):
            read_kind(kind, tmp_path, tensors)

    @pytest.mark.parametrize("value", [None, 3, [], {1: torch.ones(1)}])
    def test_what_is_no_state_dict_is_refused(self, kind: str, value: Any, tmp_path: Path):
        importer, name, write, _, names = KINDS[kind]
        data = write(tmp_path, value)
        if kind == "gogianu":  # told by the names of its tensors
            data = gzip.compress(saved({"estimator_state": value, "more": f"{names[0]}.weight"}))
        if kind == "cleanrl":
            settings = {"n_atoms": 21, "v_min": -5, "v_max": 5, "more": f"{names[0]}.weight"}
            data = saved({"model_weights": value, "args": settings})
        with pytest.raises(CorruptDataError, match=rf"{name}.*: a .* where a state dict belongs"):
            read(importer, tmp_path / name, data)

    def test_more_layers_are_refused(self, kind: str, tmp_path: Path):
        tensors = KINDS[kind][3]() | layer("lstm", 4, 4)
        with pytest.raises(UserError, match=r"a network with the tensors lstm\.bias, lstm\.weight that cannot be"):
            read_kind(kind, tmp_path, tensors)

    def test_a_network_of_another_width_in_each_layer_is_refused(self, kind: str, tmp_path: Path):
        names = KINDS[kind][4]
        tensors = KINDS[kind][3]() | layer(names[1], 9, 4, 4, 4) | layer(names[2], 8, 9, 3, 3)
        with pytest.raises(UserError, match=r"convolutions of \[4, 9, 8\] channels"):
            read_kind(kind, tmp_path, tensors)

    def test_more_outputs_than_the_console_has_actions_are_refused(self, kind: str, tmp_path: Path):
        tensors = KINDS[kind][3]() | layer(KINDS[kind][4][4], 19, 6)
        with pytest.raises(UserError, match="a network with 19 outputs"):
            read_kind(kind, tmp_path, tensors)

    def test_a_hostile_pickle_runs_nothing(self, kind: str, tmp_path: Path):
        mark = tmp_path / "executed"
        with pytest.raises(CorruptDataError, match=f"{KINDS[kind][1]}.*: refused: it would construct"):
            read_kind(kind, tmp_path, KINDS[kind][3]() | {"evil": Evil(mark)})
        assert not mark.exists()

    def test_files_that_are_cut_short_are_refused(self, kind: str, tmp_path: Path):
        importer, name, write, tensors, _ = KINDS[kind]
        data, path = write(tmp_path, tensors()), tmp_path / name
        path.write_bytes(data[: len(data) * 3 // 4])
        assert importer.read_agent is not None
        if importer.recognises(SourceFiles(path)):
            with pytest.raises(CorruptDataError, match=name):
                importer.read_agent(SourceFiles(path), Request())

    def test_links_are_refused(self, kind: str, tmp_path: Path):
        importer, name, write, tensors, _ = KINDS[kind]
        (tmp_path / "elsewhere").write_bytes(write(tmp_path, tensors()))
        folder = tmp_path / "agent"
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "elsewhere")
        assert not importer.recognises(SourceFiles(folder))
        with pytest.raises(UserError, match="is a symbolic link"):
            SourceFiles(folder / name)


class TestCleanRl:
    def read(self, folder: Path, value: Any) -> ImportedAgent:
        return read(cleanrl_torch.IMPORTER, folder / "agent.cleanrl_model", saved(value))

    def test_other_frames_are_refused(self, tmp_path: Path):
        with pytest.raises(CorruptDataError, match="a network of 3 frames; CleanRL's see 4"):
            self.read(tmp_path, cleanrl(frames=3))
        with pytest.raises(UserError, match="a network that sees 17 frames"):
            self.read(tmp_path, cleanrl(frames=17))

    @pytest.mark.parametrize(
        ("arguments", "atoms", "problem"),
        [
            ({"n_atoms": 21, "v_min": -10, "v_max": 5}, torch.linspace(-10, 5, 21), "has a support from -10 to 5"),
            ({"n_atoms": 21, "v_min": -5, "v_max": 5}, torch.linspace(-4, 4, 21), "atoms are not those of args"),
            ({"n_atoms": 21, "v_min": -5, "v_max": 5}, torch.linspace(-5, 4, 21), "no atoms that lie evenly around 0"),
            ({"n_atoms": 21, "v_min": -5, "v_max": 5}, None, "atoms is a NoneType, no tensor"),
            (
                {"n_atoms": 20, "v_min": -5, "v_max": 5},
                torch.linspace(-5, 5, 20),
                "84 outputs, which are not .* 20 atoms",
            ),
            ({"n_atoms": 1, "v_min": -5, "v_max": 5}, torch.linspace(-5, 5, 21), "n_atoms = 1, not 2 to 512"),
            ({"seed": 1}, torch.linspace(-5, 5, 21), "args has no n_atoms, v_min and v_max"),
            (None, torch.linspace(-5, 5, 21), "args is no map"),
        ],
    )
    def test_distributions_of_other_kinds_are_refused(self, arguments: Any, atoms: Any, problem: str, tmp_path: Path):
        model = {"model_weights": cleanrl(outputs=84) | {"atoms": atoms}, "args": arguments}
        with pytest.raises((CorruptDataError, UserError), match=problem):
            self.read(tmp_path, model)


class TestGogianu:
    def test_a_decompression_bomb_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(SourceFiles.gunzip, "__kwdefaults__", {"limit": 1 << 20})
        data = saved({"estimator_state": nature(*gogianu_names())})
        with pytest.raises(CorruptDataError, match=r"model_1\.gz: decompresses to more than 1,048,576 bytes"):
            read(gogianu.IMPORTER, tmp_path / "model_1.gz", gzip.compress(data + bytes(5 << 20)))

    def test_damaged_compression_is_refused(self, tmp_path: Path):
        data = bytearray(gogianu_file(nature(*gogianu_names())))
        data[-5] ^= 1  # of the length at its end
        with pytest.raises(CorruptDataError, match=r"model_1\.gz: damaged gzip data"):
            read(gogianu.IMPORTER, tmp_path / "model_1.gz", bytes(data))

    def test_atoms_that_are_none_are_refused(self, tmp_path: Path):
        tensors = nature(*gogianu_names(), outputs=51 * 3) | {"_AtariNet__support": torch.linspace(0, 10, 51)}
        with pytest.raises(CorruptDataError, match="_AtariNet__support are no atoms that lie evenly around 0"):
            read(gogianu.IMPORTER, tmp_path / "model_1.gz", gogianu_file(tensors))

    def test_other_frames_are_refused(self, tmp_path: Path):
        with pytest.raises(CorruptDataError, match="a network of 3 frames; Gogianu's see 4"):
            read(gogianu.IMPORTER, tmp_path / "model_1.gz", gogianu_file(nature(*gogianu_names(), frames=3)))


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"PK\x03\x04", b"\x1f\x8b", gzip.compress(b"PK\x03\x04", mtime=0), b"\x80\x02\x8a\n"],
    ids=["empty", "half_a_zip", "zip", "half_a_gzip", "zip_in_gzip", "pickle"],
)
def test_other_files_are_not_recognised(data: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(data)
    assert not [importer.name for importer in IMPORTERS if importer.recognises(SourceFiles(tmp_path / "file"))]
