"""What a run's start and end took: what is kept of each process, what the summary says, what people see."""

import json
import time
from contextlib import suppress
from typing import cast

from orchestrator.run.timings import Timings, TimingsRecord, process_began, timings_table
from upcycle.runs.moments import Moments


def test_moments_keep_the_first_and_the_last_time():
    moments = Moments()
    moments.first("first_step")
    first = moments.to_json()["first_step"]
    moments.first("first_step")
    moments.last("last_step")
    before = moments.to_json()["last_step"]
    moments.last("last_step")
    assert moments.to_json()["first_step"] == first
    assert moments.to_json()["last_step"] >= before >= first


def test_of_a_process_that_was_started_again_the_first_moments_count():
    timings = Timings(began=100.0)
    timings.note("learner-0", {"up": 103.0, "first_step": 105.0, "last_step": 106.0})
    timings.note("learner-0", {"up": 200.0, "first_step": 205.0, "last_step": 206.0})
    record = timings.to_json()
    assert record["processes"] == {"learner-0": {"up": 3.0, "first_step": 5.0, "last_step": 106.0}}
    assert (record["first_step"], record["last_step"]) == (5.0, 106.0)


def test_moments_come_in_the_order_in_which_a_process_passes_them_and_unknown_ones_are_left_out():
    timings = Timings(began=0.0)
    timings.note("actor-0", {"first_chunk": 3.0, "asked": 1.0, "something": 2.0})
    assert list(timings.to_json()["processes"]["actor-0"]) == ["asked", "first_chunk"]


def test_steps_are_timed_even_when_they_fail_and_ordered_by_their_beginning():
    timings = Timings(began=time.time() - 5.0)
    timings.begins_with("imports")
    with suppress(ValueError), timings.step("outer"):
        with timings.step("inner"):
            pass
        raise ValueError
    steps = timings.to_json()["steps"]
    assert [step["step"] for step in steps] == ["imports", "outer", "inner"]
    assert steps[0]["began"] == 0.0
    assert all(step["began"] <= step["ended"] for step in steps)


def test_a_stretch_without_a_gradient_step_says_so():
    record = Timings(began=0.0).to_json()
    assert record == {"steps": [], "processes": {}, "first_step": None, "last_step": None}
    assert timings_table(record)


def test_the_record_is_json_and_its_table_names_every_step_and_process():
    timings = Timings(began=0.0)
    with timings.step("start Ray"):
        timings.note("learner-0", {"asked": 1.0, "up": 2.0, "last_step": 9.25})
        timings.note("evaluator-0", {"asked": 1.0})
    record = cast(TimingsRecord, json.loads(json.dumps(timings.to_json(), allow_nan=False)))
    table = "\n".join(timings_table(record))
    for word in ("start Ray", "learner-0", "evaluator-0", "asked", "last step", "9.25"):
        assert word in table
    assert "first chunk" not in table, "nobody has passed it"


def test_the_command_began_before_now_and_not_long_ago():
    began = process_began()
    assert began <= time.time() + 0.02
    assert time.time() - began < 24 * 3600
