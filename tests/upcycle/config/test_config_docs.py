"""The configuration reference says what the models say."""

from pathlib import Path

from upcycle.config.docs import reference
from tests.helpers.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_field_has_a_meaning() -> None:
    assert "| |" not in reference()
    assert "|  |" not in reference()
