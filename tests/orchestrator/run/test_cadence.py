"""How often the driver looks, and whom it waits for at the end."""

import sys

import pytest

from orchestrator.run.cadence import ROUND_SECONDS, answer_seconds, import_ahead, round_seconds, stages


@pytest.mark.parametrize(
    ("age", "left", "quick"),
    [(0.0, None, True), (59.0, 1e4, True), (61.0, None, False), (61.0, 1e4, False), (1e6, 2.0, True)],
)
def test_rounds_are_short_while_a_run_comes_up_and_when_its_phase_is_about_to_end(
    age: float, left: float | None, quick: bool
):
    assert (round_seconds(age, left) < ROUND_SECONDS) == quick


def test_a_process_that_does_not_answer_yet_holds_up_no_round_of_a_start():
    assert answer_seconds(0.0) < ROUND_SECONDS < answer_seconds(1e6)


@pytest.mark.parametrize("finished", [False, True])
def test_every_role_ends_once_and_the_shards_last(finished: bool):
    order = [role for stage in stages(finished=finished) for role in stage.roles]
    assert sorted(order) == ["actor", "evaluator", "learner", "replay"]
    assert stages(finished=finished)[-1].roles == ("replay",)


def test_a_run_that_is_stopped_waits_for_the_actors_tails_while_the_learner_draws():
    order = [stage.roles for stage in stages(finished=False)]
    assert order.index(("actor",)) < order.index(("learner",))


def test_nobody_but_the_shards_is_waited_for_once_the_learner_has_finished():
    assert sum(stage.seconds for stage in stages(finished=True) if stage.roles != ("replay",)) <= 2.0


def test_modules_are_imported_beside_the_caller():
    import_ahead("colorsys").join(30)
    assert "colorsys" in sys.modules
