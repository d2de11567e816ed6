"""Values reach people and pipes whole and as they are."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli.options import STOPPED
from orchestrator.cli.printing import literal, print_table, print_values
from orchestrator.run.progress import Progress, TerminalView
from orchestrator.run.timings import Timings
from tests.helpers.paths import ROOT

LONG = "x" * 300
MARKUP = "/data/[bold]runs[/bold]/[/]"


def test_a_pipe_gets_whole_values(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("name", "[red]value[/red]"), [("a", LONG), (MARKUP, literal("\x1b[31mred", "bold"))], title="[t]")
    print_values("[title]", {"folder": MARKUP, "lines": f"one\n{LONG}"})
    out = capsys.readouterr().out
    assert out.count(LONG) == 2
    assert out.count(MARKUP) == 2
    assert "[red]value[/red]" in out
    assert "[t]" in out
    assert "[title]" in out
    assert "\\x1b[31mred" in out
    assert "\x1b" not in out
    assert "…" not in out


def test_a_narrow_terminal_gets_them_in_several_lines():
    code = f"""
from orchestrator.cli.printing import print_table
print_table(("name", "value"), [("a", {LONG!r}), ("b", "short")])
"""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=child) as process:
        os.close(child)
        chunks = list[bytes]()
        try:
            while chunk := os.read(parent, 4096):
                chunks.append(chunk)
        except OSError:  # how Linux says that the other side has gone
            pass
        assert process.wait(60) == 0
    os.close(parent)
    shown = b"".join(chunks).decode()
    assert shown.count("x") == len(LONG)
    assert "…" not in shown


def test_the_panel_s_rows_stand_below_its_bar():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None, height=25)
    with TerminalView("run [bold]x[/bold]", console) as view:
        view.show(Progress("rl", 0.5, env_frames=1234))
        view.say("its folder is /data/[red]x[/red]")
    lines = out.getvalue().splitlines()
    assert "run [bold]x[/bold]" in next(line for line in lines if "50%" in line)
    assert any("its folder is /data/[red]x[/red]" in line for line in lines)
    frames = [line for line in lines if "1,234" in line]
    assert frames
    assert not any("━" in line for line in frames)
    assert any("━" in line for line in lines)


def test_a_report_s_path_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from orchestrator.cli import results

    def words(_: object) -> list[str]:
        return ["done"]

    monkeypatch.setattr(results, "plain_words", words)
    assert results.show_summary({}, tmp_path / "[bold]x", as_json=False) == 0
    assert f"report: {tmp_path / '[bold]x' / 'report.html'}\n" == capsys.readouterr().err


def test_timings_of_a_stopped_stretch_are_shown_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from orchestrator.cli import results

    timings = Timings(began=0.0)
    timings.note("learner-0", {"asked": 1.0, "first_step": 3.0})
    assert results.show_summary(None, tmp_path / "run", as_json=False, timings=timings) == STOPPED
    assert "learner-0" in capsys.readouterr().err
