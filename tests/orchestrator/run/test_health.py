"""What answers mean, unit by unit."""

from typing import Any, cast

import pytest

from orchestrator.processes.context import Name
from orchestrator.run.health import called, judge, members, unit_of
from upcycle.errors import UserError


class Handle:
    def __init__(self, name: Name, **status: Any) -> None:
        self.name = f"{name[0]}-{name[1]}"
        self.status = {"state": "running", "error": None, "user_error": None} | status


def handles(**status: dict[str, Any]) -> dict[Name, Any]:
    names = cast(list[Name], [("replay", 0), ("replay", 1), ("learner", 0), ("learner", 1), ("actor", 0)])
    return {name: Handle(name, **status.get(f"{name[0]}_{name[1]}", {})) for name in names}


def answers(of: dict[Name, Any], **others: Any) -> dict[str, str | None]:
    """None of every process but those that say otherwise; "silent" leaves one out."""
    said = {handle.name: others.get(handle.name.replace("-", "_")) for handle in of.values()}
    return {name: text for name, text in said.items() if text != "silent"}


REPLAY, OTHER_REPLAY, LEARNER, ACTOR = cast(
    tuple[Name, Name, Name, Name], (("replay", 0), ("replay", 1), ("learner", 0), ("actor", 0))
)
ALL = {REPLAY, OTHER_REPLAY, LEARNER, ACTOR}


def test_everybody_well():
    of = handles()
    findings = judge(of, answers(of))
    assert (findings.dead, findings.heard, findings.finished) == ({}, ALL, False)


@pytest.mark.parametrize("silent", ["learner_0", "learner_1"])
def test_a_silent_rank_makes_the_learner_silent(silent: str):
    of = handles()
    findings = judge(of, answers(of, **{silent: "silent"}, actor_0="silent"))
    assert (findings.dead, findings.heard) == ({}, {REPLAY, OTHER_REPLAY})


def test_a_death_is_the_units_and_says_which_ranks_it_was():
    of = handles(learner_1={"state": "failed", "error": "RankLost"}, replay_1={"state": "failed", "error": "no"})
    findings = judge(of, answers(of, learner_0="killed"))
    assert findings.dead == {LEARNER: "learner-0: killed; learner-1: RankLost", OTHER_REPLAY: "no"}
    assert findings.heard == {REPLAY, ACTOR}


@pytest.mark.parametrize(("name", "finished"), [("learner_0", True), ("learner_1", False)])
def test_only_the_first_rank_ends_the_run(name: str, finished: bool):
    of = handles(**{name: {"state": "finished"}})
    findings = judge(of, answers(of))
    assert (findings.dead, findings.finished) == ({}, finished)


def test_nobody_else_ends_unasked():
    of = handles(actor_0={"state": "finished"})
    assert judge(of, answers(of)).dead == {ACTOR: "ended although nobody had asked it to"}


def test_what_a_user_can_put_right_comes_from_any_rank():
    of = handles(learner_1={"state": "failed", "user_error": ("disk", "/data", "is full", "free some space")})
    with pytest.raises(UserError, match="free some space"):
        judge(of, answers(of, learner_0="RankLost"))


def test_units_have_members_and_names():
    names = list(handles())
    assert [unit_of(name) for name in names] == [REPLAY, OTHER_REPLAY, LEARNER, LEARNER, ACTOR]
    assert members(LEARNER, names) == [("learner", 0), ("learner", 1)]
    assert called(LEARNER, names) == "learner (2 ranks)"
    assert called(LEARNER, [LEARNER]) == "learner-0"
    assert called(OTHER_REPLAY, names) == "replay-1"
