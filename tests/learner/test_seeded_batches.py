"""Batches with a seed: number i is a function of the seed and of i, wherever the learner goes on."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.batch_source import BatchSource, request_seed
from learner.batches import Batch
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import SampledBatch, SampleRequest
from tests.helpers.chunk_factory import ENV, SPEC, VIEW, connected, make_data, running_shards, table_config
from upcycle.experience.chunks import Array
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter

pytestmark = pytest.mark.slow

TEACHER = table_config("teacher", sampler="uniform", capacity_steps=400, annotation_width=2)
PER_REQUEST = 4


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("batches") / "log"
    with ExperienceLogWriter.open(path, SPEC, ENV) as writer:
        for number in range(10):
            writer.append(make_data(number), SPEC.steps)
    return path


@contextmanager
def new_replay(log: Path) -> Generator[ShardedReplay]:
    """Shards of unequal sizes that have just been started and seeded, and a new client of them."""
    with running_shards([TEACHER], count=3) as (shards, addresses):
        for index, shard in enumerate(shards):
            shard.seed("teacher", ExperienceLogReader.open(log), index, 3)
        with connected(addresses, seed=1) as replay:
            yield replay


def source(replay: ShardedReplay, **changes: Any) -> BatchSource:
    options: dict[str, Any] = {
        "batch_size": 16,
        "view": VIEW,
        "importance_sampling_exponent": 0.5,
        "prefetch_batches": 3,
        "batches_per_request": PER_REQUEST,
        "device": torch.device("cpu"),
        "seed": 7,
    }
    return BatchSource(replay, "teacher", **(options | changes))


def take(batches: BatchSource, count: int) -> list[Array]:
    """What the next batches hold, int64 [count][B]."""
    taken = list[Array]()
    for _ in range(count):
        batch = batches.next(20)
        assert batch is not None
        taken.append(content(batch))
    return taken


def content(batch: Batch) -> Array:
    frames = batch.frames.reshape(len(batch.frames), -1)[:, 0].numpy()
    np.testing.assert_array_equal(frames, batch.policy_version)  # of the rows that the keys name
    return batch.policy_version * SPEC.steps + batch.keys.offset


@pytest.mark.parametrize("requests_in_flight", [1, 3])
def test_50_batches_are_the_same_again_and_wherever_they_go_on(log: Path, requests_in_flight: int) -> None:
    with new_replay(log) as replay:
        with source(replay) as batches:
            expected = np.array(take(batches, 50))
        with source(replay, requests_in_flight=requests_in_flight) as batches:
            np.testing.assert_array_equal(take(batches, 50), expected)
    assert len(np.unique(expected, axis=0)) == 50
    with new_replay(log) as replay:
        for first in (16, 17, 19):
            with source(replay, first_batch=first, requests_in_flight=requests_in_flight) as batches:
                np.testing.assert_array_equal(take(batches, 12), expected[first : first + 12])
        with source(replay, seed=8) as batches:
            assert not np.array_equal(take(batches, 5), expected[:5])


def test_the_order_is_kept_when_the_first_request_is_the_last_to_come(log: Path) -> None:
    class SlowFirst:
        """Holds the first request back until two others have come."""

        def __init__(self, replay: ShardedReplay) -> None:
            self._replay, self._come = replay, threading.Semaphore(0)

        def sample(self, request: SampleRequest) -> list[SampledBatch]:
            batches = self._replay.sample(request)
            if request.draw_seed == request_seed(7, 0):
                assert self._come.acquire(timeout=20)
                assert self._come.acquire(timeout=20)
            else:
                self._come.release()
            return batches

        def update_priorities(self, *_: object, **__: object) -> None:
            raise AssertionError("nothing was written")

        def annotate(self, *_: object, **__: object) -> int:
            raise AssertionError("nothing was annotated")

    with new_replay(log) as replay:
        with source(replay) as batches:
            expected = take(batches, 12)
        options: dict[str, Any] = {"batch_size": 16, "view": VIEW, "importance_sampling_exponent": 0.5, "seed": 7}
        with BatchSource(
            SlowFirst(replay),
            "teacher",
            **options,
            prefetch_batches=3,
            batches_per_request=PER_REQUEST,
            requests_in_flight=3,
            device=torch.device("cpu"),
        ) as batches:
            np.testing.assert_array_equal(take(batches, 12), expected)


def test_annotations_come_back_with_later_batches_and_change_no_draw(log: Path) -> None:
    with new_replay(log) as replay:
        with source(replay) as batches:
            expected = take(batches, 40)
        with source(replay) as batches:
            for number in range(40):
                batch = batches.next(20)
                assert batch is not None
                np.testing.assert_array_equal(content(batch), expected[number])
                assert batch.annotated is not None
                assert batch.annotation is not None
                of_state = np.repeat(content(batch)[:, None].astype(np.float32), 2, axis=1)
                np.testing.assert_array_equal(batch.annotation.numpy(), of_state * batch.annotated[:, None])
                missing = np.flatnonzero(~batch.annotated)
                if len(missing):
                    batches.annotate(batch.keys.choose(missing), of_state[missing])
            while replay.stats("teacher").num_annotated < 60:
                threading.Event().wait(0.02)  # the test's own time limit ends this if they never come
        with source(replay, first_batch=40) as batches:
            batch = batches.next(20)
            assert batch is not None
            assert batch.annotated is not None
            assert batch.annotated.any()
