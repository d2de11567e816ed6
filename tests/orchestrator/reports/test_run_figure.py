"""The learning curve of a report: what it marks, and for whom it can be read."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from orchestrator.reports.palette import DARK, LIGHT, contrast
from orchestrator.reports.picture import as_file, to_png, to_svg
from orchestrator.reports.run_figure import learning_curve, spread
from orchestrator.reports.run_report import plain_words, read_summary, write_report
from teacher_store.store.store import TeacherStore
from tests.helpers.scored_runs import make_run, make_run_that_gives_back_an_early_version, score, summarised


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
