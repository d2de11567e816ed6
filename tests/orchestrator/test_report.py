import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from typing_extensions import override

from orchestrator.figure import learning_curve, spread
from orchestrator.given_back import COST, cost_of
from orchestrator.palette import DARK, LIGHT, contrast
from orchestrator.picture import as_file, to_png, to_svg
from orchestrator.report import plain_words, read_summary, write_report, write_summary
from teacher_store.store import TeacherStore
from tests.orchestrator.runs import ROOT
from upcycle.config import RunConfig, TeacherConfig
from upcycle.errors import CorruptDataError, UserError
from upcycle.run_folder import RunFolder

CONTRACT = {
    "run_id", "env_id", "preset", "teacher", "teachers", "random_score", "scores", "final", "wall_seconds",
    "env_frames", "learner_steps", "samples_per_insert", "versions",
}  # fmt: skip
FINAL = {
    "kind", "mean_return", "normalised", "episodes", "policy_version", "interval", "normalised_interval", "phase",
    "env_frames", "learner_steps", "offline_learner_steps",
}  # fmt: skip
SCORE = {"phase", "env_frames", "learner_steps", "policy_version", "mean_return", "normalised", "episodes"}


def make_run(
    path: Path, *, final: float | None = 12.0, teacher: float | None = 10.0, task: str = "Pong-v5", scores: bool = True
) -> RunFolder:
    config = RunConfig.model_validate(
        {"name": path.name, "phases": ("offline", "online", "rl"), "teacher": TeacherConfig(), "env": {"task": task}}
    )
    manifest = {"id": "pong-0123abcd", "score": teacher, "store": "/somewhere/private"} if teacher is not None else None
    folder = RunFolder.create(
        path, config, preset="<demo>", versions={"torch": "2.13.0"}, teacher=manifest, random_score=-20.0
    )
    evaluations = [("offline", 0, 500, -15.0), ("online", 40_000, 2_000, 2.0), ("rl", 80_000, 4_000, 9.0)]
    for phase, frames, steps, mean in evaluations if scores else ():
        folder.append_score(score(phase, frames, steps, mean, teacher))
    if final is not None:
        folder.append_score(score("rl", 90_000, 4_500, final, teacher) | {"kind": "final"})
    folder.write_phases(
        [
            {"phase": "offline", "learner_steps": 500, "env_frames": 0, "seconds": 61.0, "wait_seconds": 1.0},
            {"phase": "online", "learner_steps": 1500, "env_frames": 50_000, "seconds": 240.0, "wait_seconds": 12.0},
        ]
    )
    return folder


def score(phase: str, frames: int, steps: int, mean: float, teacher: float | None) -> dict[str, Any]:
    returns = [mean - 2.0, mean - 1.0, mean, mean + 1.0, mean + 2.0]
    normalised = None if teacher is None else (mean + 20.0) / (teacher + 20.0)
    return {
        "phase": phase, "env_frames": frames, "learner_steps": steps, "policy_version": steps // 100,
        "mean_return": mean, "normalised": normalised, "episodes": 5, "returns": returns, "kind": "evaluation",
    }  # fmt: skip


def summarised(folder: RunFolder) -> dict[str, Any]:
    return write_summary(folder, env_frames=90_000, learner_steps=4_500, samples_per_insert=8.02, wall_seconds=433.0)


def test_the_summary_keeps_its_contract(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    written = summarised(folder)
    summary = json.loads(folder.summary.read_text())
    assert summary == written == read_summary(folder.path) == read_summary(folder.summary)
    assert set(summary) >= CONTRACT
    assert summary["run_id"].startswith("demo-")
    assert summary["env_id"] == "Pong-v5"
    assert summary["teacher"] == {"id": "pong-0123abcd", "score": 10.0}
    assert summary["teachers"] == [summary["teacher"]]
    assert [entry["phase"] for entry in summary["scores"]] == ["offline", "online", "rl"]
    assert all(set(entry) >= SCORE for entry in summary["scores"])
    assert (summary["env_frames"], summary["learner_steps"]) == (90_000, 4_500)
    assert (summary["samples_per_insert"], summary["wall_seconds"]) == (8.02, 433.0)
    final = summary["final"]
    assert set(final) == FINAL
    assert (final["mean_return"], final["episodes"]) == (12.0, 5)
    assert (final["kind"], final["policy_version"], final["phase"]) == ("final", 45, "rl")
    assert (final["env_frames"], final["learner_steps"], final["offline_learner_steps"]) == (90_000, 4_500, 500)
    assert final["normalised"] == pytest.approx(32 / 30)
    low, high = final["interval"]
    assert 10.0 <= low < 12.0 < high <= 14.0
    assert final["normalised_interval"] == pytest.approx([(low + 20) / 30, (high + 20) / 30], abs=1e-5)


def test_an_unfinished_run_is_summarised_as_it_stands(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", final=None)
    summary = read_summary(folder.path)
    assert not folder.summary.exists()
    assert summary["final"]["mean_return"] == 9.0
    assert summary["env_frames"] == 80_000
    write_report(folder, store=TeacherStore(tmp_path / "store", bundled=None))
    empty = read_summary(make_run(tmp_path / "new", final=None, scores=False).path)
    assert empty["final"] is None
    assert plain_words(empty)[0] == "No evaluation of this run on Pong-v5 has finished yet."
    assert to_svg(learning_curve(empty), "curve", "title", "description")
    write_report(RunFolder(tmp_path / "new"), store=TeacherStore(tmp_path / "store", bundled=None))


def test_a_run_that_has_gone_on_since_is_summarised_anew(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    summarised(folder)
    folder.append_score(score("rl", 120_000, 6_000, 15.0, 10.0) | {"kind": "final"})
    assert read_summary(folder.path)["final"]["mean_return"] == 15.0
    assert read_summary(folder.path)["env_frames"] == 120_000
    assert read_summary(folder.summary)["final"]["mean_return"] == 12.0


def test_plain_words_say_what_was_reached_what_it_means_and_what_it_took(tmp_path: Path) -> None:
    words = plain_words(summarised(make_run(tmp_path / "demo")))
    assert len(words) == 4
    assert words[0].startswith(
        "The student (policy version 45, given back) scores 12.0 on Pong-v5 (5 games, 95 % interval "
    )
    assert words[0].endswith("; its teacher scores 10.0 and random play -20.0.")
    assert words[1] == "With random play at 0 and the teacher at 1 it stands at 1.07: it has reached its teacher."
    assert words[2] == (
        "Policy version 45 took 90,000 environment frames of its own and 4,500 updates, "
        "500 of them on the teacher's buffer before its first frame."
    )
    assert words[3] == "That is where the run ended, after 7 min 13 s (offline 1 min 01 s, online 4 min 00 s)."


def make_run_that_gives_back_an_early_version(path: Path, *, steps: int = 500, frames: int = 0) -> RunFolder:
    """As `make_run`, but its best version is an early one: by default that of the end of its offline phase."""
    folder = make_run(path, final=None)
    folder.append_score(score("online", frames, steps, 9.5, 10.0) | {"kind": "playoff"})
    folder.append_score(score("online", frames, steps, 9.1, 10.0) | {"kind": "final"})
    return folder


def test_a_version_that_used_no_frames_is_not_credited_with_those_of_the_run(tmp_path: Path) -> None:
    summary = summarised(make_run_that_gives_back_an_early_version(tmp_path / "demo"))
    final = summary["final"]
    assert (final["env_frames"], final["learner_steps"], final["offline_learner_steps"]) == (0, 500, 500)
    assert (final["phase"], final["policy_version"], final["mean_return"]) == ("offline", 5, 9.1)
    assert (summary["env_frames"], summary["learner_steps"]) == (90_000, 4_500)
    assert plain_words(summary)[2:] == [
        "Policy version 5 took 0 environment frames, 500 updates on the teacher's buffer: "
        "it has used no frames of its own.",
        "The whole run took 90,000 environment frames and 4,500 updates in 7 min 13 s (offline 1 min 01 s, "
        "online 4 min 00 s); its last evaluation, of policy version 40 after 80,000 frames and 4,000 updates, "
        "stands at 9.0 (5 games, 95 % interval 7.8 to 10.2).",
    ]


def test_counts_of_the_run_are_not_those_of_the_version_that_was_scored_last(tmp_path: Path) -> None:
    folder = make_run_that_gives_back_an_early_version(tmp_path / "demo")
    summary = read_summary(folder.path)  # of a run whose summary.json has been lost
    assert (summary["env_frames"], summary["learner_steps"]) == (80_000, 4_000)


def test_a_stopped_play_off_is_no_score_of_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", final=None)
    folder.append_score(score("online", 40_000, 2_000, 11.0, 10.0) | {"kind": "playoff"})
    summary = read_summary(folder.path)
    assert (summary["final"]["kind"], summary["final"]["mean_return"]) == ("evaluation", 9.0)
    assert plain_words(summary)[0].startswith(
        "The student (policy version 40, evaluated last: the run has not ended) scores 9.0 "
    )
    assert plain_words(summary)[3].endswith("The run stands at 80,000 environment frames and 4,000 updates.")


@pytest.mark.parametrize(
    ("steps", "frames", "phase", "offline"),
    [
        (0, 0, "offline", 0),
        (300, 0, "offline", 300),
        (500, 0, "offline", 500),  # published as the first version of the next phase
        (501, 0, "online", 500),
        (2_000, 50_000, "online", 500),
        (2_001, 50_004, "rl", 500),
    ],
)
def test_the_phase_and_the_offline_steps_of_a_version(steps: int, frames: int, phase: str, offline: int) -> None:
    ended = [{"phase": "offline", "learner_steps": 500}, {"phase": "online", "learner_steps": 1_500}]
    following = "online" if steps < 2_000 else "rl"
    record = {"phase": following, "env_frames": frames, "learner_steps": steps}
    assert cost_of(record, ended, ("offline", "online", "rl")) == {
        "phase": phase, "env_frames": frames, "learner_steps": steps, "offline_learner_steps": offline,
    }  # fmt: skip


def test_without_an_offline_phase_no_update_was_offline() -> None:
    record = {"phase": "rl", "env_frames": 8, "learner_steps": 3}
    assert cost_of(record, [], ("rl",))["offline_learner_steps"] == 0
    running = {"phase": "offline", "env_frames": 0, "learner_steps": 3}
    assert cost_of(running, [], ("offline", "rl"))["offline_learner_steps"] == 3


def test_summaries_of_old_get_the_cost_of_their_version_from_its_evaluation(tmp_path: Path) -> None:
    summary = summarised(make_run_that_gives_back_an_early_version(tmp_path / "demo", steps=2_000, frames=40_000))
    old = {key: value for key, value in summary["final"].items() if key not in ("kind", *COST)}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(summary | {"final": old}))
    assert read_summary(path) == summary
    path.write_text(json.dumps(summary | {"final": old | {"policy_version": 7}}))
    assert read_summary(path)["final"]["env_frames"] is None
    assert "frames and updates that this summary does not name" in plain_words(read_summary(path))[2]
    for published in ("docs/results/demo.json", "docs/results/pong_rainbow.json", "deploy/controls/pong_cpu.json"):
        assert json.loads((ROOT / published).read_bytes()) == read_summary(ROOT / published)


@pytest.mark.parametrize(
    ("final", "verdict"),
    [
        (10.0, "it has reached its teacher."),
        (9.5, "level with its teacher, within the evaluation's interval."),
        (7.0, "it is still below its teacher."),
    ],
)
def test_the_verdict_is_honest(tmp_path: Path, final: float, verdict: str) -> None:
    assert plain_words(summarised(make_run(tmp_path / "demo", final=final)))[1].endswith(verdict)


def test_a_run_without_teacher_says_so(tmp_path: Path) -> None:
    words = plain_words(summarised(make_run(tmp_path / "scratch", teacher=None)))
    assert words[0].startswith("The agent (policy version 45, given back) scores 12.0 ")
    assert words[0].endswith("; random play scores -20.0.")
    assert words[1] == "It has no teacher: it was trained from scratch."
    assert read_summary(tmp_path / "scratch")["teachers"] == []


def test_of_several_teachers_all_are_named_and_the_best_is_the_one_to_reach(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    best = folder.manifest["teacher"]
    folder.update_manifest(teachers=[{"id": "weak-89abcdef", "score": -3.5, "store": "/somewhere/private"}, best])
    summary = summarised(folder)
    assert summary["teacher"] == {"id": "pong-0123abcd", "score": 10.0}
    assert summary["teachers"] == [{"id": "weak-89abcdef", "score": -3.5}, summary["teacher"]]
    words = plain_words(summary)
    assert "; its best teacher scores 10.0 and random play -20.0." in words[0]
    assert words[1].endswith(" it stands at 1.07: it has reached its best teacher.")
    text = write_report(folder, store=TeacherStore(tmp_path / "store", bundled=None)).read_text()
    assert "<th scope=row>other teachers</th><td>weak-89abcdef (-3.50)</td>" in text
    assert "/somewhere/private" not in text
    folder.summary.write_text(json.dumps({key: summary[key] for key in summary if key != "teachers"}))  # of old
    assert "other teachers" not in write_report(folder, store=TeacherStore(tmp_path / "s", bundled=None)).read_text()


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


def curves(axes: Axes) -> list[list[list[float]]]:
    return [np.asarray(line.get_xydata(), np.float64).tolist() for line in axes.get_lines()]


def test_the_figure_shows_every_evaluation_and_is_reproducible(tmp_path: Path) -> None:
    summary = summarised(make_run(tmp_path / "demo"))
    control = summarised(make_run(tmp_path / "scratch", teacher=None))
    figure = learning_curve(summary, control)
    strip, main = figure.axes
    assert [[500.0, -15.0]] in curves(strip)
    assert [[40_000.0, 2.0], [80_000.0, 9.0]] in curves(main)
    assert {text.get_text() for text in main.texts} >= {
        "teacher 10.0",
        "random play -20.0",
        "given back 12.0",
        "run's last 9.0",
        "version 45",
        "from scratch",
    }
    assert [[90_000.0, 12.0]] in curves(main)  # the diamond
    assert to_svg(figure, "a", "b", "c") == to_svg(learning_curve(summary, control), "a", "b", "c")
    assert to_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("narrow", [False, True])
def test_the_figure_marks_the_version_given_back_where_it_stood(tmp_path: Path, narrow: bool) -> None:
    early = summarised(make_run_that_gives_back_an_early_version(tmp_path / "early"))
    strip, main = learning_curve(early, narrow=narrow).axes[:2]
    assert [[500.0, 9.1]] in curves(strip)
    assert [[80_000.0, 9.0]] in curves(main)  # the run's last evaluation
    assert not any([point] == [[90_000.0, 9.1]] for point in curves(main))
    assert "version 5" in {text.get_text() for text in strip.texts}
    online = summarised(make_run_that_gives_back_an_early_version(tmp_path / "online", steps=2_000, frames=40_000))
    main = learning_curve(online, narrow=narrow).axes[1]
    assert [[40_000.0, 9.1]] in curves(main)
    assert "version 20" in {text.get_text() for text in main.texts}


@pytest.mark.parametrize("steps", [1, 3, 10, 600])
def test_ticks_of_a_short_offline_phase_are_whole_updates(tmp_path: Path, steps: int) -> None:
    folder = make_run(tmp_path / "demo", scores=False)
    folder.append_score(score("offline", 0, 0, -15.0, 10.0))  # its only evaluation is the first one
    folder.write_phases([{"phase": "offline", "learner_steps": steps, "env_frames": 0, "seconds": 1.0}])
    strip = learning_curve(read_summary(folder.path)).axes[0]
    left, right = strip.get_xlim()
    ticks = [tick for tick in strip.get_xticks() if left <= tick <= right]
    assert right >= steps
    assert len(ticks) >= 2
    assert all(tick == int(tick) for tick in ticks)


def test_labels_keep_apart_and_inside() -> None:
    assert spread([0.0, 0.1, 5.0], gap=1.0, top=10.0) == [0.0, 1.0, 5.0]
    assert spread([0.0, 9.5, 9.6, 9.9], gap=1.0, top=10.0) == pytest.approx([0.0, 8.0, 9.0, 10.0])
    assert spread([], gap=1.0, top=10.0) == []


def test_pictures_can_be_read_aloud_and_follow_the_readers_colours(tmp_path: Path) -> None:
    folder = make_run_that_gives_back_an_early_version(tmp_path / "demo")
    words = plain_words(summarised(folder))
    text = write_report(folder, store=TeacherStore(tmp_path / "store", bundled=None)).read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(pictures) == 2  # for wide pages, and for narrow ones
    identities = list[str]()
    for picture in pictures:
        opening = picture[: picture.index(">")]
        title, description = re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', opening)
        assert 'role="img"' in opening
        assert f'<title id="{title}">Learning curve on Pong-v5</title>' in picture
        found = re.search(rf'<desc id="{description}">(.*?)</desc>', picture)
        assert found is not None
        assert all(html.escape(word) in found[1] for word in words)
        without = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", picture)
        assert not re.search(r"#[0-9a-f]{6}\b", without), "a colour that stays as it is on dark pages"
        identities += re.findall(r'\bid="([^"]+)"', picture)
        references = re.findall(r'(?:href="#|url\(#)([^")]+)', picture)
        assert set(references) <= set(identities)
    assert len(set(identities)) == len(identities)
    assert "prefers-color-scheme:dark" in text
    used = set(re.findall(r"var\(--([a-z0-9-]+)", text))
    assert used <= set(LIGHT)
    alone = as_file(pictures[0]).decode()
    assert alone.startswith("<?xml")
    assert "prefers-color-scheme:dark" in alone


def test_the_table_has_every_value_of_the_figure(tmp_path: Path) -> None:
    folder = make_run_that_gives_back_an_early_version(tmp_path / "demo")
    summary, control = summarised(folder), make_run(tmp_path / "scratch", teacher=None)
    store = TeacherStore(tmp_path / "store", bundled=None)
    text = write_report(folder, control=control.path, store=store).read_text()
    assert "<th scope=row>given back</th><td>500</td><td>0</td><td>5</td><td>9.10</td>" in text
    for point in (*summary["scores"], *read_summary(control.path)["scores"]):
        assert f"<td>{point['env_frames']:,}</td><td>{point['policy_version']}</td>" in text
    assert "with no more frames than the version given back (after 0)" in text
    assert "with no more frames than the whole run (after 80,000)" in text


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_contrast_enough_on_every_page(colors: dict[str, str]) -> None:
    for name in set(colors) - {"surface", "page", "line", "edge"}:
        for ground in ("surface", "page"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_letters_of_a_narrow_figure_are_large_enough_on_a_telephone(tmp_path: Path) -> None:
    summary = summarised(make_run(tmp_path / "demo"))
    sizes = list[float]()
    for narrow, pixels in ((True, 310), (False, 640)):  # what pages of 390 and of 704 pixels leave to a figure
        figure = learning_curve(summary, narrow=narrow)
        points = min(text.get_fontsize() for axes in figure.axes for text in axes.texts)
        sizes.append(points * pixels / (72 * figure.get_size_inches()[0]))
    assert min(sizes) >= 9.5
    assert sizes[0] >= 11
