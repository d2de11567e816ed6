import re
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from upcycle.config.io import parse_config
from upcycle.errors import UserError
from upcycle.runs.metrics import METRICS, Metrics, metrics_target
from upcycle.runs.run_folder import RunFolder


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
        return reply.read().decode()


def test_counters_add_gauges_replace_and_histograms_count():
    metrics = Metrics("actor", "run", 1)
    metrics.increment("actor_frames_total", 3)
    metrics.increment("actor_frames_total")
    metrics.set("actor_epsilon", 0.5)
    metrics.set("actor_epsilon", 0.25)
    metrics.observe("actor_step_seconds", 0.003)
    metrics.observe("actor_step_seconds", 100.0)
    assert metrics.value("actor_frames_total") == 4
    assert metrics.value("actor_epsilon") == 0.25
    assert metrics.value("actor_step_seconds") == 2
    assert metrics.value("actor_episodes_total") == 0


def test_a_scrape_shows_names_and_labels_of_the_process():
    metrics = Metrics("replay", "demo", 2)
    metrics.increment("replay_inserts_total", 7)
    address = metrics.serve()
    try:
        assert 'upcycle_replay_inserts_total{index="2",role="replay",run="demo"} 7.0' in scrape(address)
    finally:
        metrics.close()
    with pytest.raises(OSError, match="refused"):
        scrape(address)


def test_a_scrape_has_no_series_that_nobody_asked_for():
    metrics = Metrics("replay", "demo", 2)
    metrics.increment("replay_inserts_total", 7)
    metrics.observe("learner_step_seconds", 0.1)
    address = metrics.serve()
    try:
        assert "_created" not in scrape(address)
    finally:
        metrics.close()


def test_a_target_says_who_it_is_without_the_labels_of_its_samples():
    target = metrics_target("demo", "replay", 2, "127.0.0.1:1")
    assert target == {"targets": ["127.0.0.1:1"], "labels": {"process": "demo/replay-2"}}
    names = {"job", "instance", *target["labels"]}  # what Prometheus itself knows of a target
    assert not names & {"run", "role", "index", *(label for metric in METRICS.values() for label in metric.labels)}


def test_the_documented_pattern_is_one_that_prometheus_takes_and_finds_the_targets(tmp_path: Path):
    (pattern,) = re.findall(r'files: \["(.*)"\]', (ROOT / "docs" / "operations.md").read_text())
    assert re.fullmatch(r"[^*]*(\*[^/]*)?\.(json|yml|yaml)", pattern)  # its own rule: no folder after a wildcard
    folder = RunFolder.create(tmp_path / "runs" / "demo", parse_config({"name": "demo", "phases": ["rl"]}))
    folder.write_metrics_targets([metrics_target("demo", "driver", 0, "127.0.0.1:1")])
    assert list((tmp_path / "runs").glob(Path(pattern).name)) == [folder.metrics_targets]


def test_two_processes_in_one_test_do_not_share_a_registry():
    first, second = Metrics("learner", "run"), Metrics("learner", "run")
    first.increment("learner_steps_total")
    assert second.value("learner_steps_total") == 0


def test_extra_labels_tell_restarts_apart():
    metrics = Metrics("driver", "run")
    metrics.increment("supervisor_restarts_total", target="actor")
    assert metrics.value("supervisor_restarts_total", target="actor") == 1
    assert metrics.value("supervisor_restarts_total", target="learner") == 0


def test_an_unknown_name_or_the_wrong_kind_is_refused():
    metrics = Metrics("learner", "run")
    with pytest.raises(KeyError):
        metrics.increment("learner_stepz_total")
    with pytest.raises(AssertionError, match="no gauge"):
        metrics.set("learner_steps_total", 1)


def test_a_taken_port_is_a_users_error():
    first, second = Metrics("learner", "a"), Metrics("learner", "b")
    port = int(first.serve().rpartition(":")[2])
    try:
        with pytest.raises(UserError, match="metrics port"):
            second.serve(port=port)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_names_follow_the_conventions_of_prometheus(name: str):
    metric = METRICS[name]
    assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name)
    assert name.endswith("_total") == (metric.kind == "counter")
    assert metric.kind != "histogram" or name.endswith("_seconds")
    assert metric.help.endswith(".")
