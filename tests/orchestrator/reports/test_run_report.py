"""The report of a run: one page with everything in it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from orchestrator.reports.run_report import plain_words, read_summary, write_report
from teacher_store.store.store import TeacherStore
from tests.helpers.scored_runs import make_run, summarised
from upcycle.errors import CorruptDataError, UserError


class _Page(HTMLParser):
    """Collects what a page refers to, its text, and tags that are left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "path", "use", "br"):
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    @override
    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    control = make_run(tmp_path / "scratch", teacher=None, final=-19.0)
    summary = summarised(folder)
    summarised(control)
    path = write_report(folder, control=control.path, store=TeacherStore(tmp_path / "store", bundled=None))
    assert path == folder.report
    text = path.read_text()
    page = _Page(text)
    assert page.open == []
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"<script|@import|url\((?!#)", text)
    for word in plain_words(summary):
        assert word in page.text
    assert "from scratch (scratch-" in page.text
    assert "pong-0123abcd" in page.text
    assert "/somewhere/private" not in page.text
    for figure in ("offline", "4 min 00 s", "50,000", "5.0%", "8.02", "2.13.0", "[learner]"):
        assert figure in page.text
    assert len(text) < 500_000


def test_a_control_of_another_game_is_refused(tmp_path: Path) -> None:
    folder, control = make_run(tmp_path / "demo"), make_run(tmp_path / "other", task="Breakout-v5")
    with pytest.raises(UserError, match="played Breakout-v5"):
        write_report(folder, control=control.path, store=TeacherStore(tmp_path / "store", bundled=None))
    assert not folder.report.exists()


def test_what_is_no_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run"):
        read_summary(tmp_path / "nothing")
    (tmp_path / "torn.json").write_text('{"run_id": ')
    with pytest.raises(CorruptDataError, match="not a summary"):
        read_summary(tmp_path / "torn.json")
    (tmp_path / "list.json").write_text('{"run_id": "a"}')
    with pytest.raises(CorruptDataError, match="scores missing"):
        read_summary(tmp_path / "list.json")


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", teacher=None)
    folder.update_manifest(versions={"<script>alert(1)</script>": "1"}, run_id="<b>")
    control = make_run(tmp_path / "scratch", teacher=None)
    control.update_manifest(run_id='<script>#abcdef "#1d4ed8" -- </desc>')
    write_report(folder, control=control.path, store=TeacherStore(tmp_path / "store", bundled=None))
    text = folder.report.read_text()
    assert "<script>" not in text
    assert "<b></p>" not in text
    assert "&lt;script&gt;#abcdef &quot;#1d4ed8&quot; -- &lt;/desc&gt;" in text
    assert _Page(text).open == []
