from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from orchestrator.cluster.redis_server import RedisServer
from upcycle.config.io import parse_config
from upcycle.errors import UserError
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.snapshots import SnapshotFolder
from upcycle.runs.tracker import Tracker, TrackerRefused, TrackerUnavailable


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def tracker(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Tracker]:
    tracker = Tracker(server.url, str(request.node.name), password=server.password)  # a run of its own for each test
    yield tracker
    tracker.close()


def test_weights_and_checkpoints_show_the_newest(tracker: Tracker):
    assert tracker.latest_weights() is None
    assert tracker.latest_checkpoint() is None
    for version in (1, 2):
        tracker.publish_weights(version, f"policy-{version}", "ab" * 32)
        tracker.publish_checkpoint({"learner_steps": version * 100})
    assert tracker.latest_weights() == (2, "policy-2", "ab" * 32)
    assert tracker.latest_checkpoint() == {"learner_steps": 200}


def test_scores_keep_their_order(tracker: Tracker):
    for version in range(5):
        tracker.publish_score({"policy_version": version, "mean_return": -21.0})
    assert [record["policy_version"] for record in tracker.scores()] == list(range(5))


def test_runs_do_not_see_each_other(server: RedisServer, tracker: Tracker):
    other = Tracker(server.url, "another", password=server.password)
    tracker.publish_score({"mean_return": 1.0})
    assert other.scores() == []
    tracker.register_run({"name": "b", "created": 2.0})
    other.register_run({"name": "a", "created": 1.0})
    assert [run["name"] for run in other.runs()] == ["a", "b"]
    other.close()


def test_heartbeats_vanish(tracker: Tracker):
    tracker.publish_status("actor", 0, {"frames": 1}, ttl_seconds=60)
    tracker.publish_status("actor", 1, {"frames": 2}, ttl_seconds=0.001)
    for _ in range(1000):
        if "actor-1" not in tracker.statuses():
            break
    assert tracker.statuses() == {"actor-0": {"frames": 1}}


def test_the_index_is_rebuilt_from_the_files(tracker: Tracker, tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", parse_config({"name": "run", "phases": ["rl"]}))
    ref = SnapshotFolder(folder.snapshots).publish(7, {"w": np.zeros(3, np.float32)}, {})
    folder.append_score({"policy_version": 7, "mean_return": 3.0})
    tracker.publish_score({"policy_version": 1, "mean_return": -1.0})  # what the files do not know, goes
    tracker.publish_weights(99, "gone", "")
    tracker.rebuild(folder)
    assert tracker.latest_weights() == (7, ref.path, ref.sha256)
    assert tracker.scores() == [{"policy_version": 7, "mean_return": 3.0}]
    assert any(run.get("run_id") == folder.manifest["run_id"] for run in tracker.runs())


def test_an_outage_is_told_at_once_and_ends_with_the_cool_down(tmp_path: Path):
    now = 0.0
    server = RedisServer(tmp_path)
    url = server.start()
    port = int(url.rpartition(":")[2].partition("/")[0])
    tracker = Tracker(url, "run", password=server.password, clock=lambda: now)
    tracker.publish_score({"n": 1})
    server.stop()
    with pytest.raises(TrackerUnavailable, match="redis://"):
        tracker.scores()
    server.start(port)
    with pytest.raises(TrackerUnavailable, match="soon"):
        tracker.scores()  # not even asked
    now = 60.0
    assert tracker.scores() == [{"n": 1}]  # the append-only file kept it
    tracker.close()
    server.stop()


def test_a_user_of_the_servers_is_let_in_with_its_password_alone(server: RedisServer):
    place = server.url.partition("://")[2]
    known = Tracker(f"redis://default@{place}", "run", password=server.password)
    known.ping()
    known.close()
    for url, password in ((f"redis://somebody@{place}", server.password), (server.url, SecretStr("wrong"))):
        other = Tracker(url, "run", password=password)
        with pytest.raises(TrackerRefused) as refused:
            other.ping()
        assert (password.get_secret_value() in str(refused.value), url in str(refused.value)) == (False, True)
        other.close()


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "unix://a@/tmp/x?db=0&password=hunter2"])
def test_a_url_with_a_password_is_refused_without_showing_it(url: str):
    with pytest.raises(UserError, match=r"\*\*\*") as refused:
        Tracker(url, "run")
    assert "hunter2" not in str(refused.value)


def test_a_url_of_another_form_is_a_users_error():
    with pytest.raises(UserError, match="redis://HOST:PORT"):
        Tracker("http://localhost", "run")
