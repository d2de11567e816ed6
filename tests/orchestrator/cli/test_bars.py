import pytest

from orchestrator.cli.bars import LineBars, show_bars
from upcycle.runs.runtime import Games


def test_lines_come_every_ten_seconds():
    lines: list[str] = []
    now = 0.0
    bars = LineBars("rows", lines.append, clock=lambda: now)
    for second in range(25):
        now = float(second)
        bars.games(Games(second, 30, 100 * second, None if second == 0 else 8.25))
    assert lines == [
        "10 of 30 games (1,000 frames), mean so far 8.2",
        "20 of 30 games (2,000 frames), mean so far 8.2",
    ]
    now = 30.0
    bars.count(64_000, 1_000_000)
    assert lines[-1] == "64,000 of 1,000,000 rows"


def test_nothing_is_shown_to_programs(capfd: pytest.CaptureFixture[str]):
    with show_bars("rows", show=False) as bars:
        bars.count(1, 2)
        bars.games(Games(1, 2))
    assert capfd.readouterr() == ("", "")
