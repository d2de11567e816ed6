"""The configuration reference says what the models say."""

from tests.helpers.paths import ROOT
from upcycle.config.docs import reference


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_field_has_a_meaning() -> None:
    assert "| |" not in reference()
    assert "|  |" not in reference()
