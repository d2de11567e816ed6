import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from upcycle.experience import kernels
from upcycle.runs.runtime import StopSignal, close_logging, configure_logging, seed_for


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    yield
    close_logging()


def test_log_lines_are_json_and_name_the_process(tmp_path: Path):
    file = tmp_path / "logs" / "actor-3.jsonl"
    configure_logging("actor", "demo", 3, file=file)
    structlog.get_logger().warning("torn_weights", version=7, path=tmp_path)
    line = json.loads(file.read_text().splitlines()[-1])
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "role": "actor",
        "run": "demo",
        "index": 3,
        "event": "torn_weights",
        "level": "warning",
        "version": 7,
        "path": str(tmp_path),
    }


def test_a_process_with_plain_kernels_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "native", False)
    monkeypatch.setattr(kernels, "why_plain", "no compiler")
    configure_logging("replay", "demo", file=tmp_path / "log")
    line = json.loads((tmp_path / "log").read_text())
    assert (line["event"], line["reason"], line["level"]) == ("plain_kernels", "no compiler", "warning")


def test_an_exception_is_logged_with_its_traceback(tmp_path: Path):
    configure_logging("learner", "demo", file=tmp_path / "log")
    try:
        raise ValueError("no such thing")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: no such thing" in json.loads((tmp_path / "log").read_text().splitlines()[-1])["exception"]


def test_a_second_call_goes_on_elsewhere_and_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "native", True)
    for name in ("a", "b", "a"):
        configure_logging("driver", "demo", file=tmp_path / name)
        structlog.get_logger().info(f"to_{name}")
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("a", "b")] == [2, 1]


def test_seeds_are_stable_and_differ_between_processes():
    seeds = {seed_for(seed, role, index) for seed in (0, 1) for role in ("actor", "learner") for index in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_for(5, "actor", 2) == 1955687675


def test_a_stop_signal_ends_a_wait():
    stop = StopSignal()
    assert not stop.wait(0.001)
    stop.set()
    assert stop.is_set()
    assert stop.wait(10)


def test_no_password_of_a_url_gets_into_the_log(tmp_path: Path):
    configure_logging("learner", "run", file=tmp_path / "learner-0.jsonl")
    try:
        raise ConnectionError("redis://:hunter2@host:6379/0 is away")
    except ConnectionError as error:
        structlog.get_logger().error(
            "failed", exc_info=error, url="redis://:hunter2@host", extra={"a": "s3://k:hunter2@b"}
        )
    close_logging()
    text = (tmp_path / "learner-0.jsonl").read_text()
    assert "hunter2" not in text
    assert "is away" in json.loads(text.splitlines()[-1])["exception"]
