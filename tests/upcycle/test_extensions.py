from pathlib import Path

import pytest

from tests.helpers.extension_package import MODULE, install
from upcycle.errors import UserError
from upcycle.extensions import ExtensionKind, load_extension, loss_term

FIELD = "loss_terms.mine.use"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize(
    ("kind", "entry_point", "attribute"),
    [
        ("loss_term", "entropy", "entropy"),
        ("torso", "two_layers", "two_layers"),
        ("head", "scaled", "scaled"),
        ("exploration", "softmax", "Softmax"),
        ("environment", "repeat", "Repeat"),
    ],
)
def test_an_extension_is_found_in_both_ways(kind: ExtensionKind, entry_point: str, attribute: str):
    for reference in (entry_point, f"{MODULE}:{attribute}"):
        found = load_extension(kind, reference, field=FIELD)
        assert (found.kind, found.reference) == (kind, reference)
        assert (found.distribution, found.version) == ("extensions-of-tests", "1.2")
        assert found.value.__name__ == attribute


@pytest.mark.parametrize(
    ("kind", "reference", "words"),
    [
        ("loss_term", "entropie", ["upcycle.loss_terms", "did you mean entropy"]),
        ("loss_term", "nothing-like-it", ["upcycle.loss_terms", "install the distribution"]),
        ("torso", "missing", ["no_such_torso", "extensions-of-tests 1.2", "cannot be loaded"]),
        ("loss_term", "no_such_module:entropy", ["ModuleNotFoundError", "PYTHONPATH"]),
        ("loss_term", f"{MODULE}:entropi", ["there is no entropi", "did you mean entropy"]),
        ("loss_term", f"{MODULE}:unmarked", ["not marked as a loss term", "@upcycle.loss_term"]),
        ("exploration", f"{MODULE}:entropy", ["not marked as an exploration"]),
        ("torso", "subprocess:run", ["not marked as a torso"]),
    ],
)
def test_what_is_no_extension_is_refused_and_never_called(kind: ExtensionKind, reference: str, words: list[str]):
    with pytest.raises(UserError) as refused:
        load_extension(kind, reference, field=FIELD)
    assert (refused.value.field, refused.value.value) == (FIELD, reference)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_marked_function_is_still_itself():
    def mine() -> int:
        return 3

    assert loss_term(mine) is mine
    assert mine() == 3
