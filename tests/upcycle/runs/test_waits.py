"""What a process waits for, as its loop notes it and others read it."""

import json

from upcycle.runs.waits import Wait, WaitNote


def test_one_wait_goes_on_while_its_kind_stays_the_same():
    now = 10.0
    note = WaitNote(lambda: now)
    assert note.now() is None
    note.waiting("samples", "0 of 100 transitions")
    now = 20.0
    note.waiting("samples", "50 of 100 transitions")
    assert note.now() == Wait("samples", 10.0, "50 of 100 transitions")
    note.waiting("shards", "no replay shard answers")
    assert note.now() == Wait("shards", 20.0, "no replay shard answers")
    note.working()
    assert note.now() is None
    now = 30.0
    note.waiting("shards")
    assert note.now() == Wait("shards", 30.0)


def test_a_wait_goes_through_json_and_one_of_another_version_is_none():
    wait = Wait("cpus", 1.5, "1 CPU")
    assert Wait.from_json(json.loads(json.dumps(wait.to_json()))) == wait
    assert Wait.from_json(None) is None
    assert Wait.from_json({"kind": "moonlight", "since": 1.0, "detail": ""}) is None
