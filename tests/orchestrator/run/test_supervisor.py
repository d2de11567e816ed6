import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.supervisor import GiveUp, Restart, Supervisor


def supervisor(*, max_restarts: int = 2, start_seconds: float = 0.0) -> Supervisor[str]:
    return Supervisor[str](
        max_restarts=max_restarts, window_seconds=100.0, silence_seconds=10.0, start_seconds=start_seconds
    )


def test_a_death_is_answered_by_one_restart_after_the_back_off():
    watch = supervisor()
    watch.started("actor", now=0)
    watch.died("actor", "killed", now=1.0)
    watch.died("actor", "killed", now=1.1)  # the same death, seen a second time
    assert watch.decide(now=1.2) == []
    assert watch.decide(now=1.5) == [Restart("actor", "killed", 1)]
    watch.started("actor", now=1.5)
    assert watch.decide(now=2.0) == []


def test_back_off_doubles_while_a_process_keeps_dying():
    watch = supervisor(max_restarts=5)
    for now, wait in ((0.0, 0.5), (10.0, 1.0), (20.0, 2.0), (30.0, 4.0)):
        watch.started("actor", now=now)
        watch.died("actor", "killed", now=now)
        assert watch.decide(now=now + wait - 0.01) == []
        assert len(watch.decide(now=now + wait)) == 1


def test_a_crash_loop_ends_the_run():
    watch = supervisor(max_restarts=2)
    for now in (0.0, 10.0):
        watch.started("learner", now=now)
        watch.died("learner", "no memory", now=now)
        assert isinstance(watch.decide(now=now + 5)[0], Restart)
    watch.started("learner", now=20.0)
    watch.died("learner", "no memory", now=20.0)
    assert watch.decide(now=20.0) == [GiveUp("learner", "no memory", 3)]


def test_deaths_are_forgotten_after_the_window():
    watch = supervisor(max_restarts=1)
    for now in (0.0, 110.0, 220.0, 330.0):
        watch.started("actor", now=now)
        watch.heard("actor", now=now + 1)
        watch.heard("actor", now=now + 102)
        watch.died("actor", "preempted", now=now + 103)
        assert watch.decide(now=now + 104) == [Restart("actor", "preempted", 1)]


@pytest.mark.parametrize("answers_for", [0.0, 20.0])
def test_a_process_that_never_comes_up_or_falls_silent_each_time_ends_the_run(answers_for: float):
    """Each death takes so long that a window of plain time would have forgotten the one before."""
    watch, now, starts = supervisor(max_restarts=2, start_seconds=180.0), 0.0, 1
    watch.started("learner", now=now)
    while starts < 10:
        for second in range(int(answers_for)):
            watch.heard("learner", now=now + second)
        while not (decisions := watch.decide(now=now)):
            now += 1.0
        if isinstance(decisions[0], GiveUp):
            break
        watch.started("learner", now=now)
        starts += 1
    assert starts == 3


def test_waiting_for_a_place_is_neither_life_nor_death():
    watch = supervisor(max_restarts=0, start_seconds=30.0)
    watch.started("actor", now=0.0)
    for now in range(0, 1000, 5):
        assert watch.decide(now=float(now)) == []
        watch.waits("actor", now=float(now))
    assert watch.decide(now=1034.0) == []  # its start, and no earlier, begins once it has a place
    watch.heard("actor", now=1034.0)
    assert watch.decide(now=1044.0) == []


def test_silence_is_death_but_starting_may_take_longer():
    watch = supervisor(start_seconds=30.0)
    watch.started("actor", now=0)
    assert watch.decide(now=39.0) == []
    watch.heard("actor", now=39.0)
    assert watch.decide(now=49.0) == []
    assert watch.decide(now=49.5) == []  # found dead; the back-off begins
    assert [type(decision) for decision in watch.decide(now=50.0)] == [Restart]


def test_no_restarts_at_all_can_be_asked_for():
    watch = supervisor(max_restarts=0)
    watch.started("actor", now=0)
    watch.died("actor", "killed", now=1)
    assert watch.decide(now=1) == [GiveUp("actor", "killed", 1)]


def test_a_process_that_may_go_is_forgotten():
    watch = supervisor()
    watch.started("actor", now=0)
    watch.forget("actor")
    assert watch.decide(now=1000) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 30.0)), max_size=60), st.integers(0, 4))
def test_no_process_is_started_more_often_than_the_limit_allows(deaths: list[tuple[str, float]], limit: int):
    watch, now = supervisor(max_restarts=limit), 0.0
    restarts: dict[str, list[float]] = {name: [] for name in "abc"}
    for name in "abc":
        watch.started(name, now=now)
    for name, gap in deaths:
        now += gap
        for other in "abc":
            watch.heard(other, now=now)
        watch.died(name, "killed", now=now)
        for decision in watch.decide(now=now):
            if isinstance(decision, GiveUp):
                return
            restarts[decision.process].append(now)
            watch.started(decision.process, now=now)
    for times in restarts.values():
        for end in times:
            assert sum(end - 80.0 <= start <= end for start in times) <= limit + 1
