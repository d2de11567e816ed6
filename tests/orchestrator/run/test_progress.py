import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.run.progress import LineView, Pace, Progress, TerminalView, format_line, phase_fraction
from upcycle.config.io import parse_config
from upcycle.runs.runtime import Games

CONFIG = parse_config(
    {
        "teacher": {"id": "t"},
        "offline": {"learner_steps": 200},
        "online": {"env_frames": 4000},
        "rl": {"env_frames": 80},
    }
)


@pytest.mark.parametrize(
    ("status", "fraction"),
    [
        ({}, 0.0),
        ({"phase": "offline", "phase_learner_steps": 50, "phase_env_frames": 0}, 0.25),
        ({"phase": "online", "phase_learner_steps": 9999, "phase_env_frames": 1000}, 0.25),
        ({"phase": "rl", "phase_learner_steps": 0, "phase_env_frames": 100}, 1.0),
        ({"phase": "done"}, 1.0),
    ],
)
def test_a_phase_is_measured_by_its_own_budget(status: dict[str, object], fraction: float):
    assert phase_fraction(CONFIG, status) == fraction


def test_pace_is_that_of_the_last_half_minute():
    pace = Pace()
    assert pace.update("rl", 0.0, 0, 0, now=0) == (None, 0.0, 0.0)
    left, frames, steps = pace.update("rl", 0.1, 1000, 100, now=10)
    assert (left, frames, steps) == (pytest.approx(90), pytest.approx(100), pytest.approx(10))
    pace.update("rl", 0.1, 1000, 100, now=30)
    left, frames, _ = pace.update("rl", 0.1, 1000, 100, now=45)  # the points before 15 s are forgotten
    assert (left, frames) == (None, 0.0)


def test_a_new_phase_starts_a_new_measurement():
    pace = Pace()
    pace.update("offline", 0.9, 0, 100, now=0)
    assert pace.update("online", 0.0, 0, 100, now=5) == (None, 0.0, 0.0)
    assert pace.update("online", 0.5, 10, 100, now=10)[0] == pytest.approx(5)


def test_lines_come_every_ten_seconds_and_at_each_new_phase():
    lines: list[str] = []
    now = 0.0
    with LineView(lines.append, clock=lambda: now) as view:
        for second in range(25):
            now = float(second)
            view.show(Progress("offline" if second < 13 else "online"))
        view.say("replay-0 died; starting it again")
    assert [line.split()[0] for line in lines] == ["offline", "offline", "online", "online", "replay-0"]


def test_a_line_says_where_the_run_stands():
    line = format_line(
        Progress("online", 0.25, 130.0, 12345, 678, 99.6, 12.3, -3.25, 0.41, teacher_return=14.0, multiplier=0.59)
    )
    assert line == (
        "online 25% | 12,345 frames (100/s) | 678 updates (12/s) | return -3.2 (teacher 14.0) | "
        "teacher's weight 0.59 | 2 min 10 s left in this phase"
    )


PLAYING = Progress(
    "evaluation",
    0.4,
    env_frames=0,
    teacher_return=8.6,
    detail="final evaluation, policy version 49",
    games=Games(12, 30, 216_000, 8.24),
)


def test_a_line_during_an_evaluation_says_games_of_how_many_and_the_mean_so_far():
    assert format_line(PLAYING) == (
        "evaluation 40% | final evaluation, policy version 49: 12 of 30 games (216,000 frames), "
        "mean so far 8.2 (teacher 8.6)"
    )
    begun = replace(PLAYING, fraction=0.0, teacher_return=None, games=Games(0, 30))
    assert format_line(begun) == (
        "evaluation 0% | final evaluation, policy version 49: 0 of 30 games (0 frames), mean so far not known yet"
    )
    assert json.loads(json.dumps(PLAYING.to_json()))["games"]["mean_return"] == 8.24


def test_the_panel_of_an_evaluation_shows_games_and_no_training():
    text = drawn(PLAYING)
    for fact in ("final evaluation, policy version 49", "12 of 30 games (216,000 frames)", "8.2", "40%"):
        assert fact in text
    for fact in ("updates", "teacher's weight", "left in this phase"):
        assert fact not in text


def drawn(progress: Progress) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with TerminalView("demo", console) as view:
        view.show(progress)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_the_panel_shows_the_same_facts():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with TerminalView("demo", console) as view:
        view.show(Progress("rl", 0.5, 60.0, 1000, 50, mean_return=7.0, teacher_return=14.0, restarts=2))
        view.say("[actor-0] died")
    assert isinstance(console.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    for fact in ("demo", "rl", "50%", "1,000", "7.0 (teacher 14.0)", "restarts", "1 min 00 s", "[actor-0] died"):
        assert fact in text


WAITS = {"line": "no progress since 12:00:00: learner-0 reaches no replay shard since 11:59:00 ([::1]:2)"}


def test_a_standstill_is_a_line_of_its_own_at_once_and_every_ten_seconds():
    lines: list[str] = []
    now = 0.0
    with LineView(lines.append, clock=lambda: now) as view:
        for second in range(25):
            now = float(second)
            view.show(Progress("rl", standstill=WAITS if 3 <= second < 18 else None))
    assert [line.split()[0] for line in lines] == ["rl", "rl", "waiting:", "rl", "waiting:", "rl"]
    assert lines[2] == f"waiting: {WAITS['line']}"


def test_the_panel_says_what_a_run_waits_for():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with TerminalView("demo", console) as view:
        view.show(Progress("rl", standstill=WAITS))
    assert isinstance(console.file, io.StringIO)
    assert WAITS["line"] in console.file.getvalue()
