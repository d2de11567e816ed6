"""What the importers of Dopamine's and CleanRL's agents refuse: hostile, damaged and foreign files, by their names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_store.importers.formats import cleanrl_jax, dopamine_jax
from teacher_store.importers.imported import Request
from teacher_store.importers.readers.source_files import SourceFiles
from tests.helpers.fixture_files import unzip
from tests.helpers.jax_agents import Change, Params, layer, nature, read_bundle, read_bytes, read_params
from upcycle.errors import CorruptDataError, UserError


def test_the_network_that_the_others_are_made_of_is_sound(tmp_path: Path):
    agent = read_params(tmp_path, {"params": nature()})
    assert agent is not None
    assert (agent.num_actions, agent.network.hidden, agent.network.width) == (4, 16, 1 / 8)


class TestHostilePickles:
    """Opcodes are put together by hand: `pickle` would not write them."""

    @staticmethod
    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    @classmethod
    def bundle(cls, params: bytes) -> bytes:
        return b"\x80\x04}" + cls.text("online_params") + params + b"s."

    @staticmethod
    def call(module: str, name: str, *arguments: bytes) -> bytes:
        return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"

    RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
    NDARRAY = b"cnumpy\nndarray\n"

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("posix", "system"),
            ("builtins", "eval"),
            ("jax._src.api", "jit"),
            ("jax.numpy", "load"),
            ("flax.serialization", "msgpack_restore"),
            ("flax.core.frozen_dict", "FrozenDict.__init__"),
            ("optaxes", "adam"),
            ("collections", "namedtuple"),
            ("ml_dtypes", "bfloat16"),
        ],
    )
    def test_other_names_are_refused_by_their_name(self, module: str, name: str, tmp_path: Path):
        with pytest.raises(
            CorruptDataError, match=rf"ckpt\.7: refused: it would construct {re.escape(module)}\.{name}"
        ):
            read_bytes(tmp_path, self.bundle(self.call(module, name, self.text("true"))))

    def test_hidden_in_the_state_of_an_optimizer_too(self, tmp_path: Path):
        inner = self.call("posix", "system", self.text("true"))
        with pytest.raises(CorruptDataError, match=r"posix\.system"):
            read_bytes(tmp_path, self.bundle(self.call("optax._src.transform", "ScaleByAdamState", inner)))

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ((), "damaged pickle"),
            ((b"N",) * 4, "a JAX array that is made of no NumPy array"),
            ((NDARRAY, b")", b")", b"}"), "a JAX array that is made of no NumPy array"),
            ((b"cnumpy.core.multiarray\nscalar\n", b")", b")", b"}"), "a JAX array that is made of no NumPy array"),
            ((RECONSTRUCT, b"N", b")", b"}"), "a JAX array that is made of no NumPy array"),
            ((RECONSTRUCT, b"(cnumpy\ndtype\nt", b")", b"}"), r"no numpy\.ndarray"),
            ((RECONSTRUCT, b"(cnumpy\nndarray\nt", b")", b"}"), "damaged pickle"),
            (
                (RECONSTRUCT, b"(cnumpy\nndarray\nt", b"(K\x01(J\x00\x00\x00\x40tX\x02\x00\x00\x00f4\x89C\x00t", b"}"),
                r"shape \(1073741824,\) and dtype float32 with 0 bytes",
            ),
            (
                (RECONSTRUCT, b"(cnumpy\nndarray\nt", b"(K\x01(K\x01tX\x01\x00\x00\x00O\x89C\x08AAAAAAAAt", b"}"),
                "no plain number",
            ),
        ],
    )
    @pytest.mark.parametrize(
        "name", ["jax._src.array _reconstruct_array", "jax._src.device_array reconstruct_device_array"]
    )
    def test_arrays_of_jax_are_made_of_numpy_s_alone(
        self, name: str, arguments: tuple[bytes, ...], problem: str, tmp_path: Path
    ):
        module, _, function = name.partition(" ")
        with pytest.raises(CorruptDataError, match=problem):
            read_bytes(tmp_path, self.bundle(self.call(module, function, *arguments)))

    @pytest.mark.parametrize(
        ("params", "problem"),
        [
            (b"cflax.core.frozen_dict\nFrozenDict\n(]tR", "a FrozenDict of a list"),
            (b"cflax.core.frozen_dict\nFrozenDict\n)R", "damaged pickle"),
            (b"}q\x01X\x01\x00\x00\x00ah\x01s", "nested deeper"),
            (b"cflax.core.frozen_dict\nFrozenDict\n(}q\x01X\x01\x00\x00\x00ah\x01stR", "nested deeper"),
            (b"coptax._src.base\nEmptyState\n", "online_params is no dict"),
            (b"coptax._src.base\nEmptyState\n)\x81", "online_params is no dict"),
        ],
    )
    def test_dicts_that_are_none(self, params: bytes, problem: str, tmp_path: Path):
        with pytest.raises(CorruptDataError, match=problem):
            read_bytes(tmp_path, self.bundle(params))

    def test_dicts_of_dicts_of_dicts_cost_no_time(self, tmp_path: Path):
        """Seven levels of a thousand keys each, all of one dict below: a billion leaves, and then some, in 100 kB."""
        keys = [self.text(f"{key}") for key in range(1000)]
        level = b"}"
        for depth in range(7):
            memo = bytes([depth])
            level = level + b"q" + memo + b"0}(" + b"".join(key + b"h" + memo for key in keys) + b"u"
        with pytest.raises(CorruptDataError, match=r"nested deeper than 8, or over 1000 parts"):
            read_bytes(tmp_path, self.bundle(level))


def without(name: str, part: str) -> Change:
    return lambda params: params[name].pop(part)


def with_value(name: str, part: str, change: Callable[[Any], Any]) -> Change:
    def apply(params: Params) -> None:
        params[name][part] = change(params[name][part])

    return apply


def with_layer(name: str, value: Any) -> Change:
    return lambda params: params.update({name: value})


def first_is(value: float) -> Callable[[Any], Any]:
    return lambda array: np.concatenate([[value], array.ravel()[1:]]).reshape(array.shape)


DAMAGED: list[tuple[Change, str]] = [
    (without("Conv_1", "bias"), "missing or left over: Conv_1/bias"),
    (without("Dense_0", "kernel"), "missing or left over: Dense_0/kernel"),
    (with_value("Conv_2", "bias", lambda bias: bias[:-1]), r"Conv_2/bias has the shape \(7,\), not \(8,\)"),
    (with_value("Conv_2", "kernel", lambda kernel: kernel[:, :, :-1]), r"Conv_2/kernel has the shape \(3, 3, 7, 8\)"),
    (with_value("Conv_0", "kernel", lambda kernel: kernel[:4]), r"Conv_0/kernel has the shape \(4, 8, 4, 4\)"),
    (
        with_value("Conv_0", "kernel", lambda kernel: kernel[..., None]),
        r"Conv_0/kernel has the shape \(8, 8, 4, 4, 1\)",
    ),
    (with_value("Dense_0", "kernel", lambda kernel: kernel[1:]), "Dense_0 has 967 inputs, not 968; frames of 84x84"),
    (with_value("Dense_1", "kernel", lambda kernel: kernel[1:]), "Dense_1 has 15 inputs, not 16"),
    (with_value("Conv_0", "kernel", first_is(np.nan)), "Conv_0/kernel holds values that are not finite"),
    (with_value("Dense_1", "bias", first_is(-np.inf)), "Dense_1/bias holds values that are not finite"),
    (with_value("Dense_0", "kernel", first_is(1e300)), "Dense_0/kernel holds values that are not finite"),
    (with_value("Dense_1", "bias", lambda bias: bias.astype(np.int32)), "Dense_1/bias is an array of int32"),
    (with_value("Dense_1", "bias", lambda bias: bias[:0]), r"Dense_1/bias is an array of float32 and shape \(0,\)"),
    (with_value("Dense_1", "bias", lambda bias: bias.tolist()), "Dense_1/bias is a list, no array"),
    (with_value("Dense_1", "bias", lambda _: None), "Dense_1/bias is a NoneType, no array"),
    (with_layer("Dense_1", "text"), "Dense_1 is a str, no array"),
    (with_layer("more", np.zeros(3, np.float32)), "missing or left over"),
]
FOREIGN: list[tuple[Change, str]] = [
    (with_layer("Conv_3", layer(3, 3, 8, 8)), "the convolutions Conv_0, Conv_1, Conv_2, Conv_3"),
    (with_layer("BatchNorm_0", layer(8, 8)), "the dense layers BatchNorm_0, Dense_0, Dense_1"),
    (lambda params: params.pop("Dense_1"), "the dense layers Dense_0"),
    (with_layer("Conv_0", layer(8, 8, 17, 4)), "sees 17 frames"),
    (
        lambda params: params.update(Conv_0=layer(8, 8, 4, 5), Conv_1=layer(4, 4, 5, 8)),
        r"convolutions of \[5, 8, 8\] channels",
    ),
    (with_layer("Dense_1", layer(16, 19)), "19 outputs, neither at most 18 actions nor 51 atoms"),
    (with_layer("Dense_1", layer(16, 4 * 200)), r"800 outputs.*\(a quantile network\?\)"),
    (
        lambda params: params.update(Dense_0=layer(64, 968), Dense_1=layer(968, 16), Dense_2=layer(16, 4)),
        "an implicit quantile network",
    ),
]


@pytest.mark.parametrize(("change", "problem"), DAMAGED, ids=[problem[:40] for _, problem in DAMAGED])
def test_damaged_weights_are_refused_by_file_and_name(change: Change, problem: str, tmp_path: Path):
    params = nature()
    change(params)
    with pytest.raises(CorruptDataError, match=rf"ckpt\.7: .*{problem}"):
        read_params(tmp_path, {"params": params})


@pytest.mark.parametrize(("change", "problem"), FOREIGN, ids=[problem[:40] for _, problem in FOREIGN])
def test_networks_that_are_none_of_ours_are_refused_with_what_is_supported(
    change: Change, problem: str, tmp_path: Path
):
    params = nature()
    change(params)
    with pytest.raises(UserError, match=rf"ckpt\.7.*{problem}.*supported are Q and C51 networks"):
        read_params(tmp_path, {"params": params})


def test_quantile_and_vector_agents_of_the_frameworks_are_refused(tmp_path: Path):
    for fixture, importer in (
        ("dopamine_jax/quantile", dopamine_jax.IMPORTER),
        ("cleanrl_jax/perceptron", cleanrl_jax.IMPORTER),
    ):
        source = SourceFiles(unzip(fixture, tmp_path / fixture))
        assert importer.recognises(source)
        assert importer.read_agent is not None
        with pytest.raises(UserError, match="supported are Q and C51 networks with a Nature or Impala torso"):
            importer.read_agent(source, Request())


BEFORE_LINEN: list[tuple[Change, str]] = [
    (lambda layers: layers.pop("Dense_4"), "the dense layers Dense_0"),
    (lambda layers: layers.pop("Conv_1"), "some are missing"),
    (lambda layers: layers.update(Dense_3b=layers.pop("Dense_3")), "Dense_3b"),
    (lambda layers: layers.update(Conv_3=layer(3, 3, 8, 8)), "has (Conv|Dense)_3/.*, which no"),
    (lambda layers: layers.update({f"Dense_{'9' * 4000}": layer(2, 2)}), "which no network of Dopamine has"),
]


@pytest.mark.parametrize(("change", "problem"), BEFORE_LINEN)
def test_names_from_before_linen_must_count_all_layers(change: Change, problem: str, tmp_path: Path):
    layers = nature()
    layers |= {"Dense_3": layers.pop("Dense_0"), "Dense_4": layers.pop("Dense_1")}
    assert read_params(tmp_path, layers) is not None
    change(layers)
    with pytest.raises((CorruptDataError, UserError), match=problem):
        read_params(tmp_path, layers)


@pytest.mark.parametrize(
    ("bundle", "problem"),
    [
        ({"state": np.zeros((42, 42, 4))}, "frames of 42x42 make 288"),
        ({"state": np.zeros((84, 84, 3))}, "state has 3 frames, the network sees 4"),
        ({"state": np.zeros((84, 80, 4))}, "frames of 84x80"),
        ({"state": np.zeros((10, 10, 4))}, "frames of 10x10"),
        ({"state": np.zeros((84, 84))}, "state is no array"),
        ({"state": "seen"}, "state is no array"),
        ({"training_steps": -1}, "training_steps is no count"),
        ({"training_steps": 1.5}, "training_steps is no count"),
        ({"current_iteration": "3"}, "current_iteration is no count"),
        ({"current_iteration": True}, "current_iteration is no count"),
    ],
)
def test_bundles_that_contradict_themselves_are_refused(bundle: dict[str, Any], problem: str, tmp_path: Path):
    with pytest.raises((CorruptDataError, UserError), match=problem):
        read_bundle(tmp_path, {"online_params": {"params": nature()}} | bundle)


@pytest.mark.parametrize(
    ("bundle", "problem"),
    [
        (["online_params"], "no bundle of a Dopamine agent, but a list"),
        ({"online_params": {"params": nature(), "batch_stats": {"mean": 1}}}, "batch_stats/mean beside params"),
        ({"online_params": {1: 2}}, "a name that is a int"),
        ({"online_params": None}, "online_params is no dict"),
        ({"online_params": 1, 2: 3}, "no bundle"),
    ],
)
def test_pickles_that_are_no_bundles_are_refused(bundle: Any, problem: str, tmp_path: Path):
    with pytest.raises(CorruptDataError, match=problem):
        read_bundle(tmp_path, bundle)
