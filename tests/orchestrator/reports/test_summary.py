"""The summary of a run: its contract, what it credits to which version, and its words."""

import json
from pathlib import Path

import pytest

from orchestrator.reports.picture import to_svg
from orchestrator.reports.run_figure import learning_curve
from orchestrator.reports.run_report import plain_words, read_summary, write_report
from orchestrator.reports.selected_version import COST, cost_of
from teacher_store.store.store import TeacherStore
from tests.helpers.paths import ROOT
from tests.helpers.scored_runs import make_run, make_run_that_gives_back_an_early_version, score, summarised
from upcycle.runs.run_folder import RunFolder

CONTRACT = {
    "run_id", "env_id", "preset", "teacher", "teachers", "random_score", "scores", "final", "wall_seconds",
    "env_frames", "learner_steps", "samples_per_insert", "versions",
}  # fmt: skip
FINAL = {
    "kind", "mean_return", "normalised", "episodes", "policy_version", "interval", "normalised_interval", "phase",
    "env_frames", "learner_steps", "offline_learner_steps",
}  # fmt: skip
SCORE = {"phase", "env_frames", "learner_steps", "policy_version", "mean_return", "normalised", "episodes"}


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
