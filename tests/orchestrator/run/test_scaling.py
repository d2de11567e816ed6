"""More and fewer replay shards of a run: which ones, what is refused, and a whole run that is scaled and resumed."""

import json
import os
import signal
import subprocess
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.app import main
from orchestrator.cli.options import STOPPED
from orchestrator.processes.shard_set import ShardSet
from replay_service.client.sharded_replay import ShardedReplay
from tests.helpers.chunk_factory import make_chunk
from tests.helpers.paths import ROOT
from tests.helpers.runs import CATCH, catch, plan_for, wait_until
from tests.orchestrator.cluster.test_ray_cluster import POLITELY, SMALL, command, progress, status
from tests.orchestrator.processes.test_process import Stage
from upcycle.experience.chunks import encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

FULL = {"full": True, "draining": False}
DRAINED = {"full": True, "draining": True}
FILLING = {"full": False, "draining": False}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(first=st.integers(1, 4), wanted=st.lists(st.integers(1, 6), max_size=12), data=st.data())
def test_no_index_is_given_twice(first: int, wanted: list[int], data: st.DataObject) -> None:
    shards, gone = ShardSet.first(first), set[int]()
    for number in wanted:
        before = shards
        shards = shards.scaled_to(number, leave_by=7.0)
        assert len(shards.taking) == number
        assert sorted(shards.taking) == list(shards.taking)
        assert not set(shards.taking) & set(shards.draining)
        assert not set(shards.all) & gone
        assert set(before.all) <= set(shards.all)  # nobody leaves without having drained
        if number < len(before.taking):
            assert shards.taking == before.taking[:number]  # the highest go
        assert ShardSet.from_json(json.loads(json.dumps(shards.to_json()))) == shards
        if shards.draining and data.draw(st.booleans()):
            index = data.draw(st.sampled_from(sorted(shards.draining)))
            shards = shards.without(index)
            gone.add(index)
        if data.draw(st.booleans()):
            shards = shards.new_stretch()
            assert not any(map(shards.has_joined, shards.all))


def test_more_shards_are_first_those_that_drain() -> None:
    shards = ShardSet.first(3).scaled_to(1, leave_by=7.0)
    assert (shards.taking, shards.draining) == ((0,), {1: 7.0, 2: 7.0})
    shards = shards.scaled_to(2, leave_by=9.0)
    assert (shards.taking, shards.draining) == ((0, 1), {2: 9.0})
    shards = shards.scaled_to(4, leave_by=9.0)
    assert (shards.taking, shards.draining) == ((0, 1, 2, 3), {})
    assert [shards.has_joined(index) for index in shards.taking] == [False, False, False, True]


def test_a_shard_leaves_when_the_others_are_full_or_its_time_is_over() -> None:
    shards = ShardSet.first(3).scaled_to(2, leave_by=100.0)
    assert shards.leaving({0: FULL, 1: FILLING, 2: DRAINED}, now=99.0) == []
    assert shards.leaving({0: FULL, 1: FULL, 2: DRAINED}, now=99.0) == [2]
    assert shards.leaving({0: FULL, 1: FILLING, 2: DRAINED}, now=100.0) == [2]
    assert shards.leaving({0: FULL, 1: FULL, 2: FULL}, now=100.0) == []  # it has not begun to drain
    assert shards.leaving({0: FULL, 2: DRAINED}, now=99.0) == []  # 1 does not answer
    assert shards.leaving({2: DRAINED}, now=100.0) == []  # nobody else does


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(
        tmp_path / "runs" / "catch", catch(), teacher=None, random_score=0.0, preset="catch", versions={}
    )


def refused(folder: RunFolder, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["replay", "scale", folder.path.name, "--runs", str(folder.path.parent), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_cannot_be_done_is_said_in_one_line(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not running (lost); first: upcycle resume catch" in refused(folder, capsys, "--shards", "3")
    folder.write_status("driver", 0, {"phase": "offline"})  # of a driver on another machine
    assert "--shards = 0: is not above 0" in refused(folder, capsys, "--shards", "0")
    assert "--drain-seconds = -1.0" in refused(folder, capsys, "--shards", "1", "--drain-seconds", "-1")
    assert "teacher's log" in refused(folder, capsys, "--shards", "1")
    rehearsal = ("phases=online,rl", "teacher.id=any", "online.teacher_fraction=0.25")
    folder.write_status("driver", 0, {"phase": "online"})
    folder.replace_config(catch(*rehearsal))
    assert "for the phase online; scale down once" in refused(folder, capsys, "--shards", "1")
    folder.write_status("driver", 0, {"phase": "rl"})
    assert "has not come to 1 shards within 0.1 s" in refused(folder, capsys, "--shards", "1", "--timeout", "0.1")
    assert folder.scale_request() == {"num_shards": 1, "drain_seconds": 600.0}
    assert main(["replay", "scale", "none", "--shards", "2", "--runs", str(folder.path.parent)]) == 2
    assert "there is no such run; known runs: catch" in capsys.readouterr().err


def test_the_answer_is_the_drivers(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_status("driver", 0, {"phase": "rl"})
    for index in range(2):
        folder.announce_endpoint("replay", index, "127.0.0.1:1")
    words = ["replay", "scale", "catch", "--runs", str(folder.path.parent), "--shards", "1", "--json"]

    def answer() -> None:
        wait_until(folder.scale_request)
        folder.write_shards(ShardSet.first(2).scaled_to(1, leave_by=2e9).to_json())

    thread = threading.Thread(target=answer)
    thread.start()
    assert main(words) == 0
    thread.join()
    assert json.loads(capsys.readouterr().out) == {"run": "catch", "shards": [0], "draining": [1]}


def test_a_shard_does_what_the_folder_says_also_after_its_restart(tmp_path: Path) -> None:
    """0 and 1 began the run and share the teacher's log; 1 drains; 2 has joined."""
    config = catch("replay.num_shards=2")
    spec = plan_for(config, tmp_path / "teachers").spec
    with ExperienceLogWriter.open(tmp_path / "log", spec, config.env) as log:
        for number in range(5):
            log.append(encode_chunk(make_chunk(number, spec=spec), spec), spec.steps)
    teacher = {"id": "t", "name": "t", "score": 1.0, "store": "/nowhere", "log": str(tmp_path / "log")}
    taught = catch("replay.num_shards=2", "phases=offline,rl", "teacher.id=t")
    folder = RunFolder.create(tmp_path / "run", taught, chunk_spec=spec.to_json(), teacher=teacher)
    shards = ShardSet.first(2).scaled_to(3, leave_by=0.0)
    folder.write_shards(replace(shards, taking=(0, 2), draining={1: 2e9}).to_json())
    stage = Stage(folder)
    try:
        first = stage.start("replay", 1)
        for index in (0, 2):
            stage.start("replay", index)
        wait_until(lambda: len(folder.endpoints("replay")) == 3)
        with closing(ShardedReplay(lambda: folder.endpoints("replay"), spec, rng=np.random.default_rng(0))) as replay:
            online, teachers = replay.stats("online"), replay.stats("teacher")
            assert {index: stats.draining for index, stats in online.shards.items()} == {0: False, 1: True, 2: False}
            sizes = [online.shards[index].flow.min_size_to_sample for index in range(3)]
            assert sizes == [config.replay.min_size_to_sample // 2, 0, 0]  # 1 has given up all of it, 2 is owed none
            assert len({stats.capacity_steps for stats in online.shards.values()}) == 1
            assert [teachers.shards[index].num_chunks for index in range(3)] == [3, 2, 0]

            assert first.stop(20.0)
            folder.withdraw("replay", 1)
            again = stage.start("replay", 1)
            wait_until(lambda: 1 in folder.endpoints("replay"))
            wait_until(lambda: len(replay.stats("online").shards) == 3)
            assert replay.stats("online").shards[1].draining  # from its first answer on
            assert again.status()["detail"]["draining"]
            folder.write_shards(shards.to_json())
            wait_until(lambda: not replay.stats("online").shards[1].draining)
    finally:
        stage.close()


def scale(runs: Path, shards: int, *words: str) -> dict[str, Any]:
    arguments = command("replay", "scale", "catch", "--shards", str(shards), "--runs", runs, "--json", *words)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    return cast(dict[str, Any], json.loads(done.stdout))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(800)
def test_a_run_that_is_scaled_up_and_down_goes_on_and_is_resumed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = RunFolder(runs / "catch")
    sets = (*SMALL, "rl.env_frames=1000000", "replay.num_shards=1", "replay.capacity_steps=400000")
    begin = [*POLITELY, *command("run", CATCH, "--runs", runs, sets=sets)]
    with (tmp_path / "output").open("wb") as output:
        driver = subprocess.Popen(begin, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)

    def inserted(index: int) -> float:
        return float(folder.statuses().get(f"replay-{index}", {}).get("num_inserted", 0.0))

    try:
        wait_until(lambda: folder.path.exists() and progress(folder) > 500, seconds=300)
        assert scale(runs, 2, "--timeout", "120") == {"run": "catch", "shards": [0, 1], "draining": []}
        wait_until(lambda: inserted(1) > 500)
        assert scale(runs, 1, "--drain-seconds", "3600") == {"run": "catch", "shards": [0], "draining": [1]}
        pid = int(folder.statuses()["replay-1"]["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: drains_on(folder, pid))
        assert scale(runs, 1, "--drain-seconds", "0")["shards"] == [0]
        wait_until(lambda: set(folder.endpoints("replay")) == {0})
        reached = progress(folder)
        wait_until(lambda: progress(folder) > reached + 500)
        assert scale(runs, 2, "--timeout", "120")["shards"] == [0, 2]  # not 1, whose log stays what it was
        wait_until(lambda: inserted(2) > 200)
        shown = status(runs)
        assert shown["restarts"] == 1
        assert "replay-1" not in shown["processes"]
        subprocess.run(command("stop", "catch", "--runs", runs), cwd=ROOT, check=True, timeout=120)
        assert driver.wait(60) == STOPPED
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(10)
    before = status(runs)
    logs = {index: log_of(folder, f"shard-{index}").num_transitions for index in range(3)}
    assert min(logs.values()) > 0
    # Nothing that has been acknowledged is lost to those who learn from this run: all logs are one.
    assert log_of(folder).num_transitions == sum(logs.values()) >= before["env_frames"]

    frames = before["env_frames"] + 500
    again = command("resume", "catch", "--runs", runs, "--json", sets=(f"rl.env_frames={frames}",))
    ended = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["env_frames"] >= frames
    assert log_of(folder, "shard-1").num_transitions == logs[1]
    assert log_of(folder).num_transitions >= sum(logs.values()) + 500
    sizes = {index: folder.statuses()[f"replay-{index}"]["size"] for index in (0, 2)}
    assert all(sizes[index] >= logs[index] for index in sizes), f"each begins with its own log: {sizes}, {logs}"
    assert set(folder.endpoints("replay")) == {0, 2}


def drains_on(folder: RunFolder, pid: int) -> bool:
    """Whether the shard that was this process has been started again, and drains."""
    state = folder.statuses()["replay-1"]
    return state["pid"] != pid and bool(state["draining"])


def log_of(folder: RunFolder, name: str = "") -> ExperienceLogReader:
    return ExperienceLogReader.open(folder.experience / name)
