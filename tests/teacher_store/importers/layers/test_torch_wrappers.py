"""Agents out of the wrappers and training loops that have saved them."""

import copyreg
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from teacher_store.importers.formats import cleanrl_torch, gogianu, stable_baselines3
from teacher_store.importers.layers.torch_wrappers import mentions
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.torch_agents import Tensors, cleanrl, read, saved
from tests.teacher_store.importers.formats.test_torch_refusals import KINDS, read_kind
from upcycle.errors import CorruptDataError, UserError

WRAPPERS = ["_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def read_cleanrl(folder: Path, value: Any) -> Any:
    path = folder / "agent.cleanrl_model"
    path.write_bytes(saved(value))
    assert cleanrl_torch.IMPORTER.recognises(SourceFiles(path))
    return read(cleanrl_torch.IMPORTER, path)


def assert_same(found: Any, expected: Any) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, values in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], values)


@pytest.mark.parametrize("prefix", [*WRAPPERS, "_orig_mod.module", "module._orig_mod"])
@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_agents_are_read(kind: str, prefix: str, tmp_path: Path):
    importer, name, write, make, _ = KINDS[kind]
    plain = read_kind(kind, tmp_path, make())
    (tmp_path / name).write_bytes(write(tmp_path, under(prefix, make())))
    assert importer.recognises(SourceFiles(tmp_path / name))
    assert_same(read(importer, tmp_path / name), plain)


def compiled(module: nn.Module) -> Any:
    """As `torch.compile` leaves it; nothing is compiled before the first call, which never comes."""
    return torch.compile(module, backend="eager")


def test_the_names_are_those_that_torch_leaves(tmp_path: Path):
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(
                nn.Conv2d(4, 4, 8, 4), nn.ReLU(), nn.Conv2d(4, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1), nn.ReLU(),
                nn.Flatten(), nn.Linear(392, 6), nn.ReLU(), nn.Linear(6, 4),
            )  # fmt: skip

    agent = Agent()
    plain = read_cleanrl(tmp_path, agent.state_dict())
    parts = Agent()
    parts.load_state_dict(agent.state_dict())
    parts.network = compiled(parts.network)
    for wrapped in (
        compiled(agent),
        nn.DataParallel(agent),
        compiled(nn.DataParallel(agent)),
        nn.DataParallel(compiled(agent)),
        torch.optim.swa_utils.AveragedModel(agent),
        parts,
    ):
        assert set(wrapped.state_dict()) != set(agent.state_dict())
        assert_same(read_cleanrl(tmp_path, wrapped.state_dict()), plain)


def test_what_training_loops_save_is_read(tmp_path: Path):
    plain = read_cleanrl(tmp_path, cleanrl())
    other = {name: value + 1 for name, value in cleanrl().items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    shared = cleanrl()
    lightning = {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.5.0", "optimizer_states": [optimizer]}
    for value in (
        lightning | {"state_dict": under("q_network", cleanrl()) | under("target_network", other)},
        lightning | {"state_dict": under("model._orig_mod", cleanrl())},
        {"model": cleanrl(), "optimizer": optimizer, "step": 7},
        {"model": under("module", cleanrl()), "target": under("module", other)},
        {"model_state_dict": under("agent.q_network", cleanrl())},
        under("_forward_module", shared) | under("_original_module", shared),
    ):
        assert_same(read_cleanrl(tmp_path, value), plain)


def test_the_hyperparameters_that_lightning_keeps_stand_in_the_way_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = types.ModuleType("lightning_fabric.utilities.data")
    attribute_dict: Any = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = attribute_dict  # type: ignore[attr-defined]
    for name in ("lightning_fabric", "lightning_fabric.utilities"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert copyreg  # what pickles a subclass of dict
    value = {"state_dict": under("model", cleanrl()), "hyper_parameters": attribute_dict(lr=1e-4, seed=1)}
    assert_same(read_cleanrl(tmp_path, value), read_cleanrl(tmp_path, cleanrl()))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (lambda: under("module", cleanrl()) | cleanrl(outputs=5), CorruptDataError, "twice, wrapped in different"),
        (
            lambda: {"state_dict": under("a", cleanrl()) | under("b", cleanrl(outputs=5))},
            UserError,
            r"several networks: state_dict\.a, state_dict\.b; save",
        ),
        (
            lambda: {"state_dict": under("model", cleanrl() | {"network.11.weight": torch.ones(2, 4)})},
            UserError,
            "a network with the tensors",
        ),
    ],
)
def test_what_is_not_clear_is_refused(value: Callable[[], Any], error: type[Exception], words: str, tmp_path: Path):
    with pytest.raises(error, match=words):
        read_cleanrl(tmp_path, value())


@given(st.lists(st.sampled_from([*WRAPPERS, "_original_module"]), max_size=3), st.binary(max_size=20))
def test_a_wrapped_name_is_found_and_no_other(wrappers: list[str], around: bytes):
    inside = ".".join(["network", *wrappers, "0", "weight"]).encode()
    assert mentions(around + inside + around, "network.0.weight")
    assert not mentions(around + b"network.10.weight", "network.0.weight")


def test_the_importers_are_those_of_the_kinds():
    assert {kind[0].name for kind in KINDS.values()} == {
        importer.IMPORTER.name for importer in (cleanrl_torch, gogianu, stable_baselines3)
    }
