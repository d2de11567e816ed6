"""A wait that cannot end is ended, with its reason; one that can is not."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.starvation import StarvationCheck, is_starved
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats, total_stats
from replay_service.table.types import ReplayTimeout
from tests.helpers.cartpole_learner import BASE, CHUNKS
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.experience.windows import View

FULL = Flow(1.0, 100, 50, num_transitions=373, num_free_inserts=50, num_paced_inserts=323)
VIEW = View(n_step=5, stack=1)


def said(*flows: Flow, drawable: int = 0, n_step: int = 5) -> TableStats:
    shards = {index: TableStats(flow, num_drawable=drawable, n_step=n_step) for index, flow in enumerate(flows)}
    return total_stats(shards)


def test_only_a_table_that_takes_nothing_more_is_hopeless() -> None:
    def look(stats: TableStats, *, grows: bool = True) -> bool:
        return is_starved(stats, 5, 16, grows=grows)

    assert look(said(FULL, FULL))
    assert not look(said(FULL, FULL, drawable=1))
    assert not look(said(FULL, FULL, n_step=3))  # nobody has asked with this horizon yet
    roomy = Flow(1.0, 400, 50, num_transitions=373, num_free_inserts=50, num_paced_inserts=323)
    assert not look(said(FULL, roomy))
    empty = Flow(1.0, 100, 50)
    assert not look(said(empty, empty))
    assert look(said(FULL, empty), grows=False)
    assert not look(said(empty, empty), grows=False)  # those that had something are away


@pytest.mark.parametrize(("phase", "table"), [("offline", "teacher"), ("online", "teacher"), ("rl", "online")])
def test_it_raises_after_twenty_seconds_of_it(phase: Any, table: str) -> None:
    answers: Mapping[str, TableStats] = {"teacher": said(FULL), "online": said(FULL)}
    config = RunConfig.model_validate(BASE | {"online": {"teacher_fraction": 0.5}})
    if phase == "online":
        answers = answers | {"online": said(FULL, drawable=3)}
    wait, away = StarvationCheck(config, CHUNKS, VIEW), False

    def stats(name: str) -> TableStats:
        if away:
            raise ReplayTimeout("no shard answers")
        return answers[name]

    replay = cast(Any, SimpleNamespace(stats=stats))
    for now in (0.0, 19.0):
        wait.check(replay, phase, now=now)
    away = True
    wait.check(replay, phase, now=20.5)  # a shard that comes back may have something
    away = False
    for now in (21.0, 40.5):
        wait.check(replay, phase, now=now)
    with pytest.raises(UserError, match=rf"learner.n_step = 5: none of the 373 transitions of the table '{table}'"):
        wait.check(replay, phase, now=41.5)


def test_no_phase_no_look() -> None:
    StarvationCheck(RunConfig.model_validate(BASE), CHUNKS, VIEW).check(cast(Any, None), None, now=0.0)
