"""Shared segments and mapped arenas: private, verified, gone with their owner, and never torn."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from replay_service.client.batch_drawer import BatchDrawer
from replay_service.client.mapped_arena import MappedArena
from replay_service.client.membership import Membership
from replay_service.client.shard_client import ShardClient
from replay_service.server.shard import ReplayShard
from replay_service.storage.arena import Arena
from replay_service.storage.shared_memory import (
    SegmentHandle,
    SegmentUnreachable,
    SharedSegment,
    can_share,
    map_segment,
)
from replay_service.table.table_stats import TableStats
from replay_service.table.types import SampledBatch, SampleRequest, Transport
from tests.helpers.chunk_factory import (
    SPEC,
    VIEW,
    connected,
    make_chunk,
    make_data,
    running_shards,
    table_config,
)
from upcycle.runs.metrics import Metrics

pytestmark = pytest.mark.skipif(not can_share(), reason="this system shares no arenas")


def test_a_reader_sees_what_the_owner_writes_and_cannot_write() -> None:
    segment = SharedSegment(1000)
    seen = map_segment(segment.handle)
    assert bytes(seen) == bytes(1000)
    segment.buffer[7] = 42
    assert seen[7] == 42
    with pytest.raises(TypeError):
        seen[7] = 0
    path = f"/proc/{os.getpid()}/fd/{segment.handle.descriptor}"
    descriptor = os.open(path, os.O_RDWR)
    with pytest.raises(OSError, match=r"not permitted|Invalid argument"):
        os.ftruncate(descriptor, 10)
    os.close(descriptor)
    segment.close()
    assert seen[7] == 42


def test_what_is_not_the_segment_is_not_mapped() -> None:
    segment, other = SharedSegment(1000), SharedSegment(1000)
    read_end, write_end = os.pipe()
    wrong = {
        "token": replace(segment.handle, token=other.handle.token),
        "size": replace(segment.handle, num_bytes=2000),
        "pipe": replace(segment.handle, descriptor=read_end),
        "nothing": replace(segment.handle, descriptor=10_000),
        "process": replace(segment.handle, pid=2**22 + 1),
    }
    for handle in wrong.values():
        with pytest.raises(SegmentUnreachable):
            map_segment(handle)
    for descriptor in (read_end, write_end):
        os.close(descriptor)
    segment.close()
    segment.close()
    with pytest.raises(SegmentUnreachable):
        map_segment(segment.handle)
    other.close()


OWNER = """
import json, sys, time
from replay_service.storage.shared_memory import SharedSegment
segment = SharedSegment(4096)
segment.buffer[0] = 99
handle = segment.handle
print(json.dumps([handle.pid, handle.descriptor, handle.token.hex(), handle.num_bytes]), flush=True)
time.sleep(60)
"""


def test_a_killed_owner_leaves_nothing_behind_but_what_readers_hold() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid, descriptor, token, num_bytes = json.loads(owner.stdout.readline())
        handle = SegmentHandle(pid, descriptor, bytes.fromhex(token), num_bytes)
        seen = map_segment(handle)
        owner.send_signal(signal.SIGKILL)
    assert seen[0] == 99
    with pytest.raises(SegmentUnreachable):
        map_segment(handle)
    assert not [name for name in os.listdir("/dev/shm") if "upcycle" in name]


def test_an_overwritten_window_is_told_from_a_whole_one() -> None:
    arena = Arena(SPEC, 3)
    for slot in range(3):
        arena.write(slot, make_chunk(slot), generation=slot + 1)
    mapped = MappedArena(arena, incarnation=1)
    slots, offsets, generations = np.array([0, 1, 2]), np.array([0, 3, 7]), np.array([1, 2, 3])
    out = np.empty((3, VIEW.stack + VIEW.n_step, *SPEC.frame_shape), np.uint8)
    values = mapped.values(slots, offsets, VIEW)
    whole = mapped.copy_frames(slots, offsets, generations, VIEW, out=out)
    assert whole.all()
    assert values["policy_version"].tolist() == [0, 1, 2]
    assert out[:, 0, 0, 0].tolist() == [0, 1, 2]
    arena.write(1, make_chunk(9), generation=4)
    assert mapped.copy_frames(slots, offsets, generations, VIEW, out=out).tolist() == [True, False, True]
    arena.generation[2] = 0  # as while the slot is being written
    assert mapped.copy_frames(slots, offsets, generations, VIEW, out=out).tolist() == [True, False, False]


@pytest.mark.parametrize("transport", get_args(Transport))
def test_every_way_gives_the_same_windows(transport: Transport) -> None:
    with (
        running_shards([table_config()], count=3) as (_, addresses),
        connected(addresses, transport=transport) as replay,
    ):
        for number in range(12):
            replay.insert("online", [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)
        batches = replay.sample(
            SampleRequest(
                tables="online",
                batch_size=40,
                num_batches=5,
                view=VIEW,
                importance_sampling_exponent=0.5,
                timeout_seconds=10,
            )
        )
        assert len(batches) == 5
        for batch in batches:
            assert batch.windows.frames.shape == (40, 3, 2, 2)
            assert (batch.windows.frames == batch.policy_version[:, None, None, None]).all()
            np.testing.assert_allclose(batch.windows.n_step_return, np.clip(batch.policy_version % 7, 0, 1))
            np.testing.assert_allclose(batch.probabilities, 1 / (12 * SPEC.steps))
            assert batch.importance_weights.tolist() == [1.0] * 40
            assert len(set(batch.keys.shard.tolist())) == 3  # dealt out, not cut off
        keys = batches[0].keys
        replay.update_priorities("online", keys, np.full(40, 2.0))
        assert replay.stats("online").num_stale_updates == 0


@pytest.mark.slow
def test_windows_overwritten_while_sampling_are_drawn_again() -> None:
    """A writer laps a small table while a reader samples it; every window is of one chunk, whole."""
    stop, failures = threading.Event(), list[str]()
    with (
        running_shards([table_config(capacity_steps=16)], count=1) as (_, addresses),
        connected(addresses) as writer,
        connected(addresses) as reader,
    ):

        def write() -> None:
            number = 0
            while not stop.is_set():
                writer.insert("online", [make_data(number)], writer_id="w", first_sequence=number, timeout_seconds=10)
                number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(300):
                batch = reader.sample(
                    SampleRequest(
                        tables="online", batch_size=64, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                    )
                )[0]
                frames = batch.windows.frames.reshape(64, -1)
                if not (frames == (batch.policy_version % 256)[:, None]).all():
                    failures.append("torn window")
        finally:
            stop.set()
            thread.join()
    assert not failures


def test_a_shard_without_shared_memory_is_read_over_grpc() -> None:
    with running_shards([table_config()], shared_memory=False) as (_, addresses):
        client = ShardClient(addresses[0], SPEC)
        stats = client.stats("online", timeout_seconds=5)
        assert client.arena("online", stats.incarnation, transport="auto", timeout_seconds=5) is None
        client.close()
        with connected(addresses) as replay:
            replay.insert("online", [make_data(3)], writer_id="w", first_sequence=0, timeout_seconds=10)
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
                )
            )[0]
            assert (batch.windows.frames == 3).all()


def test_a_shard_that_was_restarted_at_its_old_address_is_not_drawn_from_for_ever() -> None:
    """Its keys are of another arena than the one that is mapped, so that every window would count as torn."""
    with running_shards([table_config()]) as (shards, addresses):
        members = Membership(lambda: addresses, SPEC)
        drawer = BatchDrawer(members, SPEC, rng=np.random.default_rng(0), transport="auto", packed=False, metrics=None)

        def draw(known: dict[int, tuple[ShardClient, TableStats]]) -> list[SampledBatch] | None:
            request = SampleRequest(
                tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
            return drawer.draw("online", request, known)

        with connected(addresses) as writer:
            writer.insert("online", [make_data(1)], writer_id="w", first_sequence=0, timeout_seconds=10)
        before = members.tables("online", n_step=VIEW.n_step)
        assert draw(before) is not None
        shards[0].stop(grace_seconds=0.2)
        port = int(addresses[0].rpartition(":")[2])
        again = ReplayShard(
            index=0, spec=SPEC, tables=[table_config()], log=None, metrics=Metrics("replay", "test", 0), port=port
        )
        assert again.start() == addresses[0]
        try:
            with connected(addresses) as writer:
                writer.insert("online", [make_data(2)], writer_id="w", first_sequence=1, timeout_seconds=20)
            assert draw(before) is None
            batches = draw(members.tables("online", n_step=VIEW.n_step))
            assert batches is not None
            assert (batches[0].windows.frames == 2).all()
        finally:
            members.close()
            again.stop(grace_seconds=0.2)


def test_a_restarted_shards_new_memory_is_mapped() -> None:
    with running_shards([table_config()]) as (shards, addresses), connected(addresses) as replay:
        replay.insert("online", [make_data(1)], writer_id="w", first_sequence=0, timeout_seconds=10)
        replay.sample(
            SampleRequest(
                tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=10
            )
        )[0]
        shards[0].stop(grace_seconds=0.2)
        with running_shards([table_config()]) as (_, others):
            addresses[0] = others[0]
            replay.insert("online", [make_data(2)], writer_id="w", first_sequence=1, timeout_seconds=20)
            batch = replay.sample(
                SampleRequest(
                    tables="online", batch_size=8, view=VIEW, importance_sampling_exponent=0.5, timeout_seconds=20
                )
            )[0]
            assert (batch.windows.frames == 2).all()
