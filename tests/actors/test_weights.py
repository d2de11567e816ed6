from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from actors.weights import PolicyWeights, WeightSubscriber
from upcycle.runs.metrics import Metrics
from upcycle.runs.snapshots import SnapshotFolder, SnapshotRef
from upcycle.runs.tracker import Tracker


def unguarded(*_: object) -> None:
    """In place of what looks for values that are not finite: as it was once."""


def publish(folder: SnapshotFolder, version: int, value: float | None = None) -> SnapshotRef:
    value = float(version) if value is None else value
    return folder.publish(version, {"w": np.full(3, value, np.float32)}, {"policy_version": str(version)})


def version_of(weights: PolicyWeights | None) -> int | None:
    if weights is None:
        return None
    assert weights.metadata["policy_version"] == str(weights.version)
    np.testing.assert_array_equal(weights.tensors["w"], np.full(3, weights.version))
    return weights.version


@pytest.fixture
def folder(tmp_path: Path) -> SnapshotFolder:
    return SnapshotFolder(tmp_path / "snapshots")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("actor", "test")


@pytest.fixture
def absent_tracker() -> Generator[Tracker]:
    tracker = Tracker("redis://127.0.0.1:1/0", "test")
    yield tracker
    tracker.close()


def test_each_version_is_handed_out_once(folder: SnapshotFolder) -> None:
    subscriber = WeightSubscriber(folder, None, poll_seconds=1)
    assert subscriber.poll(0.0) is None
    publish(folder, 1)
    assert subscriber.poll(0.9) is None  # too early to look again
    assert version_of(subscriber.poll(1.0)) == 1
    assert subscriber.poll(2.0) is None
    publish(folder, 2)
    publish(folder, 3)
    assert version_of(subscriber.poll(3.0)) == 3


def test_a_learner_that_goes_back_to_its_checkpoint_is_followed(folder: SnapshotFolder) -> None:
    subscriber = WeightSubscriber(folder, None, poll_seconds=1)
    publish(folder, 9)
    assert version_of(subscriber.poll(0.0)) == 9
    publish(folder, 4)
    assert version_of(subscriber.poll(1.0)) == 4


def test_a_torn_file_is_counted_and_the_weights_before_stay(folder: SnapshotFolder, metrics: Metrics) -> None:
    subscriber = WeightSubscriber(folder, None, poll_seconds=1, metrics=metrics)
    publish(folder, 1)
    assert version_of(subscriber.poll(0.0)) == 1
    path = folder.path / publish(folder, 2).path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert subscriber.poll(1.0) is None
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert subscriber.poll(2.0) is None
    path.unlink()
    assert subscriber.poll(3.0) is None
    assert metrics.value("actor_torn_weights_total") == 3
    path.write_bytes(whole)
    assert version_of(subscriber.poll(4.0)) == 2
    (folder.path / "latest.json").write_text("{")
    assert subscriber.poll(5.0) is None
    assert metrics.value("actor_torn_weights_total") == 4


def test_the_files_do_while_redis_is_away(folder: SnapshotFolder, metrics: Metrics, absent_tracker: Tracker) -> None:
    subscriber = WeightSubscriber(folder, absent_tracker, poll_seconds=1, metrics=metrics)
    publish(folder, 1)
    assert version_of(subscriber.poll(0.0)) == 1
    publish(folder, 2)
    assert version_of(subscriber.poll(1.0)) == 2
    assert metrics.value("tracker_unavailable_total") == 2


class Announcements(Tracker):
    """What Redis would say, without Redis: `upcycle.runs.tracker` has its own tests."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1/0", "test")
        self.newest: SnapshotRef | None = None

    def latest_weights(self) -> tuple[int, str, str] | None:
        return None if self.newest is None else (self.newest.version, self.newest.path, self.newest.sha256)


def test_the_newer_of_the_two_announcements_counts(folder: SnapshotFolder, metrics: Metrics) -> None:
    tracker = Announcements()
    subscriber = WeightSubscriber(folder, tracker, poll_seconds=1, metrics=metrics)
    first, note = publish(folder, 1), folder.path / "latest.json"
    old_note = note.read_bytes()
    second = publish(folder, 2)
    note.write_bytes(old_note)  # as a network file system may show it for a while
    tracker.newest = second
    assert version_of(subscriber.poll(0.0)) == 2
    third = publish(folder, 3)
    tracker.newest = first  # a Redis that was restored from yesterday
    assert version_of(subscriber.poll(1.0)) == 3
    (folder.path / third.path).unlink()
    publish(folder, 4)
    tracker.newest = SnapshotRef(5, "policy-0000000005.safetensors", "0" * 64)  # announced, and nowhere to be found
    assert version_of(subscriber.poll(2.0)) == 4
    assert metrics.value("actor_torn_weights_total") == 1
    tracker.close()


def test_weights_that_are_not_finite_are_passed_over_and_the_next_version_is_taken(
    folder: SnapshotFolder, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscriber = WeightSubscriber(folder, None, poll_seconds=1, metrics=metrics)
    with monkeypatch.context() as patch:  # as an older version would have published them
        patch.setattr("upcycle.runs.snapshots.check_finite", unguarded)
        publish(folder, 1, float("nan"))
    assert subscriber.poll(0.0) is None
    assert metrics.value("actor_torn_weights_total") == 1
    publish(folder, 2)
    assert version_of(subscriber.poll(1.0)) == 2
