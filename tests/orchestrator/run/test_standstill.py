"""Which of many waits is the cause: a table of what processes say, and of the line that people read."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.run.standstill import Movement, Standstill, clock_time, explain
from upcycle.runs.waits import Wait, WaitKind

NOW = 1_000_000.0


def waits(**kinds: str | None) -> dict[str, Wait | None]:
    """By process, for what it has been waiting for 100 s; after a colon the detail."""
    found = dict[str, Wait | None]()
    for name, text in kinds.items():
        kind, _, detail = (text or "").partition(":")
        wait = Wait.from_json({"kind": kind, "since": NOW - 100, "detail": detail}) if kind else None
        found[name.replace("_", "-")] = wait
    return found


T = clock_time(NOW - 100)
STILL = f"no progress since {clock_time(NOW - 60)}: "


@pytest.mark.parametrize(
    ("processes", "line"),
    [
        pytest.param(
            waits(replay_0=None, learner_0="shards:refused", actor_0="shards:refused", evaluator_0=None),
            f"learner-0, actor-0 reach no replay shard since {T} (refused)",
            id="a proxy, or a firewall",
        ),
        pytest.param(
            waits(replay_0=None, replay_1="cpus:1 CPU", learner_0="shards", actor_0="shards"),
            f"replay-1 waits for CPUs since {T} (1 CPU); learner-0, actor-0 wait for that",
            id="a shard without a place",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="samples:0 of 100", actor_0="cpus:1 CPU", actor_1="cpus:1 CPU"),
            f"actor-0, actor-1 wait for CPUs since {T} (1 CPU); learner-0 waits for that",
            id="no actor has a place",
        ),
        pytest.param(
            waits(replay_0="start:it reads logs", learner_0="shards", actor_0="shards", evaluator_0=None),
            f"replay-0 is being started since {T} (it reads logs); learner-0, actor-0 wait for that",
            id="a shard with a long log",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="samples:surplus -9", actor_0="room", actor_1="room"),
            f"replay's limiter is at rest, it lets neither side go on: learner-0 waits for experience to come in since "
            f"{T} (surplus -9); actor-0, actor-1 wait for samples to be drawn since {T}",
            id="a limiter at rest",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="samples:0 of 100", actor_0="weights:torn", actor_1="weights:torn"),
            f"actor-0, actor-1 wait for weights since {T} (torn); learner-0 waits for that",
            id="weights that never come",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="start:it builds", actor_0="weights", evaluator_0=None),
            f"learner-0 is being started since {T} (it builds); actor-0 waits for that",
            id="no weights before the learner is there",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="teacher:0 of 5", actor_0="phase", evaluator_0=None),
            f"learner-0 waits for the teacher's experience since {T} (0 of 5)",
            id="a teacher without experience; actors wait as they should",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="ranks", learner_1="cpus:1 GPU", actor_0="weights"),
            f"learner-1 waits for CPUs since {T} (1 GPU); learner-0, actor-0 wait for that",
            id="a rank without a place",
        ),
        pytest.param(
            waits(replay_0=None, learner_0="samples:3 of 100", actor_0="weights", actor_1=None),
            f"learner-0 waits for experience to come in since {T} (3 of 100); actor-0 waits for weights since {T}",
            id="one actor plays, without anything coming in",
        ),
        pytest.param(
            waits(replay_0=None, learner_0=None, actor_0=None),
            "no process says that it waits for anything",
            id="nobody waits",
        ),
        pytest.param(waits(), "no process says that it waits for anything", id="there is nobody"),
    ],
)
def test_a_run_that_stands_still_names_the_cause_and_not_what_follows_from_it(
    processes: Mapping[str, Wait | None], line: str
):
    found = explain(processes, still_since=NOW - 60, now=NOW)
    assert found is not None
    assert found.line == STILL + line


@pytest.mark.parametrize("kind", ["cpus", "shards", "ranks", "weights"])
def test_a_process_that_is_left_behind_is_named_though_the_run_goes_on(kind: WaitKind):
    processes = {"replay-0": None, "learner-0": None, "actor-0": None, "actor-1": Wait(kind, NOW - 40, "why")}
    found = explain(processes, still_since=NOW - 1, now=NOW)
    assert found is not None
    assert found.since is None
    assert found.line.startswith("actor-1 ")
    assert found.line.endswith(f"since {clock_time(NOW - 40)} (why)")
    early = {**processes, "actor-1": Wait(kind, NOW - 20, "why")}
    assert explain(early, still_since=NOW - 1, now=NOW) is None


@pytest.mark.parametrize("kind", ["samples", "room", "teacher", "phase", "start"])
def test_what_is_usual_is_not_worth_a_word_while_the_run_moves(kind: WaitKind):
    processes = {"replay-0": None, "learner-0": Wait(kind, NOW - 500), "actor-0": None}
    assert explain(processes, still_since=NOW - 29, now=NOW) is None


KINDS: list[WaitKind] = ["cpus", "start", "shards", "ranks", "weights", "teacher", "phase", "room", "samples"]
NAMES = ["replay-0", "replay-1", "learner-0", "learner-1", "actor-0", "actor-1", "evaluator-0"]


@given(
    kinds=st.fixed_dictionaries({name: st.none() | st.sampled_from(KINDS) for name in NAMES}),
    seconds=st.integers(0, 100),
    still=st.integers(0, 100),
)
def test_whatever_they_say_there_is_one_line_and_a_cause_that_waits(
    kinds: dict[str, WaitKind | None], seconds: int, still: int
):
    processes = {name: None if kind is None else Wait(kind, NOW - seconds) for name, kind in kinds.items()}
    found = explain(processes, still_since=NOW - still, now=NOW)
    if still >= 30:
        assert found is not None
    if found is None:
        return
    assert "\n" not in found.line
    assert all(processes[name] == wait for name, wait in found.causes.items())
    assert not set(found.causes) & set(found.held_up)
    if any(kinds.values()) and still >= 30:
        assert found.causes
    assert explain(processes, still_since=NOW - still, now=NOW) == found


def test_a_standstill_is_the_same_one_whatever_is_known_about_it():
    one = Standstill(NOW, {"learner-0": Wait("samples", NOW, "0 of 5")})
    other = Standstill(NOW, {"learner-0": Wait("samples", NOW, "1 of 5")})
    third = Standstill(NOW, {"learner-0": Wait("shards", NOW)})
    assert one.key == other.key != third.key
    assert one.to_json() == {
        "line": one.line,
        "since": NOW,
        "causes": [{"process": "learner-0", "kind": "samples", "since": NOW, "detail": "0 of 5"}],
        "held_up": [],
    }


def test_movement_is_any_counters():
    movement = Movement()
    assert movement.update((0, 0), now=1.0) == 1.0
    assert movement.update((0, 0), now=50.0) == 1.0
    assert movement.update((0, 1), now=60.0) == 60.0
    assert movement.update((0, 1), now=70.0) == 60.0
