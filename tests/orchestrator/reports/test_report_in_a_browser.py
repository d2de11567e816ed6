"""What only a browser shows: nothing of a report is wider than its place, and its figures have letters one can read."""

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

from orchestrator.reports.run_report import write_report
from orchestrator.reports.workflow_report import write_workflow
from teacher_store.store.store import TeacherStore
from tests.helpers.scored_runs import make_run_that_gives_back_an_early_version, summarised
from tests.helpers.workflow_runs import add_workflow

pytestmark = pytest.mark.slow

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 768, 1200)
MEASURE = """
const out = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, wide = [];
  for (const element of page.querySelectorAll("main *")) {
    const scrolls = element.closest(".scroll, pre, svg") !== null;
    if (!scrolls && element.clientWidth && element.scrollWidth > element.clientWidth + 1)
      wide.push(element.tagName + " " + element.textContent.slice(0, 60));
  }
  const shown = [...page.querySelectorAll("figure svg")].filter(svg => svg.getBoundingClientRect().width > 0);
  out.push({
    name: frame.title, wide, scrolls: page.documentElement.scrollWidth > frame.clientWidth,
    scales: shown.map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width),
    ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    surface: frame.contentWindow.getComputedStyle(page.querySelector("figure svg path")).fill,
  });
}
document.body.textContent = "measured " + JSON.stringify(out) + " so far";
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("reports")
    folder, runs = make_run_that_gives_back_an_early_version(path / "demo"), path / "runs"
    folder.summary.write_text(json.dumps(summarised(folder) | {"wall_seconds": 1381.0}))
    write_report(folder, store=TeacherStore(path / "store", bundled=None))
    return {"report": folder.report, "workflow": Path(write_workflow(runs, add_workflow(runs), [])["html"])}


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_fit_every_width_in_either_scheme(pages: dict[str, Path], tmp_path: Path, scheme: str) -> None:
    frames = "".join(
        f'<iframe title="{name}-{width}" style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{escape(path.read_text(), quote=True)}"></iframe>'
        for name, path in pages.items()
        for width in WIDTHS
    )
    page = tmp_path / "page.html"
    meta = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    page.write_text(f"{meta}<body>{frames}<script>window.onload = () => {{{MEASURE}}}</script>")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--force-dark-mode"] if scheme == "dark" else []
    command += ["--timeout=60000", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    environment = os.environ | {"HOME": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, env=environment)
    found = re.search(r"measured (.*) so far", unescape(run.stdout))
    assert found is not None, run.stderr[-2000:]
    measured = json.loads(found[1])
    assert len(measured) == len(pages) * len(WIDTHS)
    for frame in measured:
        assert frame["wide"] == [], frame["name"]
        assert not frame["scrolls"], frame["name"]
        assert len(frame["scales"]) == 1, f"{frame['name']} shows one form of its figure"
        assert 10 * frame["scales"][0] >= 10.5, f"{frame['name']}: letters of {10 * frame['scales'][0]:.1f} pixels"
        expected = (
            ("rgb(17, 24, 39)", "rgb(26, 34, 51)") if scheme == "dark" else ("rgb(248, 250, 252)", "rgb(255, 255, 255)")
        )
        assert (frame["ground"], frame["surface"]) == expected
