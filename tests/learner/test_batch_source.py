"""Batches: dealing out a draw, prefetching, writing back, ending."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batch_source import BatchSource
from learner.batches import FrameBuffers
from learner.phase_batches import note_wait
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, TransitionKeys
from tests.helpers.chunk_factory import connected, make_data, running_shards, table_config
from upcycle.config.run import PhaseName
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View, Windows
from upcycle.runs.waits import WaitNote

VIEW = View(n_step=2, stack=3)
SMALL = View(n_step=1, stack=2)
"""Of the chunks that the tests of replay make."""


def draw(batch_size: int, first: int = 0) -> SampledBatch:
    number = np.arange(first, first + batch_size)
    frames = np.zeros((batch_size, 5, 2, 2), np.uint8) + np.arange(5, dtype=np.uint8)[None, :, None, None]
    return SampledBatch(
        windows=Windows(frames, number, number.astype(np.float32), np.ones(batch_size, np.float32)),
        keys=TransitionKeys(number % 2, number, number, number),
        probabilities=np.full(batch_size, 0.1),
        importance_weights=np.linspace(0.1, 1.0, batch_size, dtype=np.float32),
        policy_version=number,
    )


class ScriptedReplay:
    """Gives numbered transitions, or nothing while `empty`; keeps what is written back."""

    def __init__(self) -> None:
        self.empty, self.fails = False, False
        self.drawn = 0
        self.written: list[tuple[TransitionKeys, Array]] = []
        self.annotated: list[tuple[TransitionKeys, Array]] = []
        self.wrote = threading.Event()
        self.meeting: threading.Barrier | None = None  # requests wait for each other there

    def sample(self, request: SampleRequest) -> list[SampledBatch]:
        assert request.timeout_seconds > 0
        if self.meeting is not None:
            self.meeting.wait(20)
        assert (request.tables, request.view, request.importance_sampling_exponent) == ("online", VIEW, 0.5)
        if self.fails:
            raise RuntimeError("the table is gone")
        if self.empty:
            threading.Event().wait(0.01)
            raise ReplayTimeout("nothing", "samples")
        size = request.batch_size
        batches = [draw(size, self.drawn + number * size) for number in range(request.num_batches)]
        for number, batch in enumerate(batches):
            frames = request.allocate(batch.windows.frames.shape, "uint8")
            frames[...] = batch.windows.frames
            batches[number] = replace(batch, windows=replace(batch.windows, frames=frames))
        self.drawn += size * request.num_batches
        return batches

    def update_priorities(self, table: str | None, keys: TransitionKeys, priorities: Array) -> None:
        self.written.append((keys, priorities))
        self.wrote.set()

    def annotate(self, table: str | None, keys: TransitionKeys, values: Array) -> int:
        self.annotated.append((keys, values))
        self.wrote.set()
        return len(values)


def source(replay: ScriptedReplay, *, prefetch: int = 2, per_request: int = 2, in_flight: int = 1) -> BatchSource:
    return BatchSource(
        replay,
        "online",
        batch_size=4,
        view=VIEW,
        importance_sampling_exponent=0.5,
        prefetch_batches=prefetch,
        batches_per_request=per_request,
        requests_in_flight=in_flight,
        device=torch.device("cpu"),
    )


def test_both_states_are_views_of_one_window() -> None:
    with source(ScriptedReplay()) as batches:
        batch = batches.next(10)
    assert batch is not None
    assert batch.observation[0, :, 0, 0].tolist() == [0, 1, 2]
    assert batch.next_observation[0, :, 0, 0].tolist() == [2, 3, 4]
    assert batch.observation.untyped_storage().data_ptr() == batch.next_observation.untyped_storage().data_ptr()


def test_as_many_requests_are_under_way_as_are_asked_for() -> None:
    replay = ScriptedReplay()
    replay.meeting = threading.Barrier(3)
    with source(replay, in_flight=3, per_request=1) as batches:
        for _ in range(6):
            assert batches.next(10) is not None
        replay.meeting.abort()  # a thread that is left alone must not wait for the others
        replay.meeting = None


def test_frames_are_used_again_once_the_learner_has_gone_on() -> None:
    with source(ScriptedReplay(), prefetch=2, per_request=1) as batches:
        seen = list[int]()
        for _ in range(20):
            batch = batches.next(10)
            assert batch is not None
            assert batch.frames[:, 0].eq(0).all()
            assert batch.frames[:, 4].eq(4).all()
            seen.append(batch.frames.untyped_storage().data_ptr())
    assert len(set(seen)) <= 5  # queued, in the fetch thread's hand, with the learner, and given back


def test_on_a_cpu_a_batch_is_its_buffer_and_waits_for_no_copy() -> None:
    buffers = FrameBuffers(torch.device("cpu"))
    sampled = draw(8)
    batch = buffers.to_batch(sampled, VIEW)
    assert batch.copied is None
    assert batch.await_copy() is batch
    assert np.shares_memory(batch.frames.numpy(), sampled.windows.frames)


@pytest.mark.gpu
def test_on_cuda_a_batch_is_copied_beside_the_work_of_the_current_stream() -> None:
    device = torch.device("cuda")
    buffers, sampled = FrameBuffers(device), draw(8)
    batches = [buffers.to_batch(sampled, VIEW).await_copy() for _ in range(20)]
    for batch in batches:
        assert batch.copied is not None
        assert batch.frames.is_cuda
        assert np.array_equal(batch.frames.cpu().numpy(), sampled.windows.frames)
        assert np.array_equal(batch.action.cpu().numpy(), sampled.windows.action)


def test_a_buffer_of_another_shape_is_not_used_again() -> None:
    buffers = FrameBuffers(torch.device("cpu"))
    first = buffers.take((2, 3), "uint8")
    buffers.release(torch.from_numpy(first))
    assert buffers.take((2, 4), "uint8").shape == (2, 4)
    buffers.release(torch.from_numpy(first))
    assert np.shares_memory(buffers.take((2, 3), "uint8"), first)


def test_prefetching_is_bounded() -> None:
    replay = ScriptedReplay()
    with source(replay, prefetch=2, per_request=2) as batches:
        assert batches.next(10) is not None
        for _ in range(200):
            if replay.drawn >= 16:
                break
            threading.Event().wait(0.01)
        threading.Event().wait(0.1)
        assert replay.drawn <= 4 * (1 + 2 + 2 * 2)  # taken, queued, and at most two requests' worth in hand


def test_nothing_in_time_is_none_and_then_goes_on() -> None:
    replay = ScriptedReplay()
    replay.empty = True
    with source(replay) as batches:
        assert batches.next(0.05) is None
        replay.empty = False
        assert batches.next(10) is not None


def test_write_backs_share_a_request_and_keep_their_order() -> None:
    replay = ScriptedReplay()
    with source(replay, per_request=2) as batches:
        for first in (0, 4):
            batches.write_back(draw(4, first).keys, np.arange(first, first + 4) + 1.0)
        assert replay.wrote.wait(10)
    keys, priorities = replay.written[0]
    assert keys.slot.tolist() == list(range(len(priorities)))
    assert priorities.tolist() == [slot + 1.0 for slot in keys.slot.tolist()]


def test_a_mixture_goes_to_the_learner_and_its_priorities_back_to_each_table() -> None:
    tables = [
        table_config("online", capacity_steps=400),
        table_config("teacher", capacity_steps=400, annotation_width=4),
    ]
    with running_shards(tables, count=2) as (_, addresses), connected(addresses) as replay:
        for number in range(8):
            table = ("online", "teacher")[number % 2]
            replay.insert(table, [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)
        for found in replay.scan("teacher", 32, view=SMALL):
            replay.annotate("teacher", found.keys, np.repeat(found.policy_version[:, None], 4, axis=1))
        with BatchSource(
            replay,
            {"online": 0.75, "teacher": 0.25},
            batch_size=16,
            view=SMALL,
            importance_sampling_exponent=0.5,
            prefetch_batches=2,
            batches_per_request=3,
            device=torch.device("cpu"),
        ) as batches:
            for _ in range(6):
                batch = batches.next(20)
                assert batch is not None
                assert batch.keys.tables == ("online", "teacher")
                assert batch.keys.table is not None
                assert batch.keys.table.tolist() == [0] * 12 + [1] * 4
                np.testing.assert_array_equal(batch.policy_version % 2, batch.keys.table)
                assert batch.frames.reshape(16, -1).eq(torch.from_numpy(batch.policy_version)[:, None]).all()
                assert batch.annotation is not None
                assert batch.annotated is not None
                assert isinstance(batch.annotated, np.ndarray)  # on the host, whatever the learner's device
                assert batch.annotated.tolist() == [False] * 12 + [True] * 4
                assert batch.annotation[12:].eq(torch.from_numpy(batch.policy_version[12:])[:, None]).all()
                batches.write_back(batch.keys, np.where(batch.keys.table == 0, 3.0, 7.0))
            while [replay.stats(table).max_priority for table in ("online", "teacher")] != [3.0, 7.0]:
                threading.Event().wait(0.02)  # the test's own time limit ends this if they never come
        assert replay.stats("online").num_stale_updates == replay.stats("teacher").num_stale_updates == 0


def test_the_fetch_threads_error_reaches_the_learner() -> None:
    replay = ScriptedReplay()
    replay.fails = True
    with source(replay) as batches, pytest.raises(RuntimeError, match="table is gone"):
        batches.next(10)


def test_a_full_write_queue_drops_and_counts() -> None:
    replay = ScriptedReplay()
    batches = source(replay, prefetch=2)  # not started: nothing drains the queue
    for _ in range(3):
        batches.write_back(draw(4).keys, np.ones(4))
        batches.annotate(draw(4).keys, np.ones((4, 2), np.float32))
    batches.write_back(draw(4).keys, np.ones(4))
    assert (batches.dropped_updates, batches.dropped_annotations) == (2, 1)


def test_annotations_and_priorities_go_back_side_by_side() -> None:
    replay = ScriptedReplay()
    with source(replay, prefetch=4, per_request=4) as batches:
        for first in (0, 4):
            batches.write_back(draw(4, first).keys, np.arange(first, first + 4) + 1.0)
            batches.annotate(draw(4, first).keys, np.repeat(np.arange(first, first + 4.0)[:, None], 2, axis=1))
        while sum(len(values) for _, values in replay.annotated) < 8 or sum(len(v) for _, v in replay.written) < 8:
            threading.Event().wait(0.01)  # the test's own time limit ends this if they never come
    for keys, values in replay.annotated:
        np.testing.assert_array_equal(values, np.repeat(keys.slot[:, None], 2, axis=1))
    for keys, priorities in replay.written:
        np.testing.assert_array_equal(priorities, keys.slot + 1.0)


def test_leaving_joins_both_threads() -> None:
    before = threading.active_count()
    with source(ScriptedReplay()) as batches:
        batches.next(10)
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


@pytest.mark.parametrize(("phase", "kind"), [("offline", "teacher"), ("online", "samples")])
def test_a_source_that_gets_nothing_says_why(phase: PhaseName, kind: str) -> None:
    replay, waits = ScriptedReplay(), WaitNote()
    replay.empty = True
    with source(replay) as batches:
        while batches.last_timeout is None:
            assert batches.next(0.05) is None
        note_wait(waits, batches, phase)
        wait = waits.now()
        assert wait is not None
        assert (wait.kind, wait.detail) == (kind, "nothing")
        replay.empty = False
        assert batches.next(10) is not None
        assert batches.last_timeout is None
