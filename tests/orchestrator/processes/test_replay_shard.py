"""Shards of a run as its processes start them: what they are seeded with, and that it lets everybody go on."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.processes.process import Process
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import SampledBatch, SampleRequest
from teacher_store.records.record import TeacherRecord
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher
from tests.helpers.runs import catch, new_run, plan_for, wait_until
from tests.orchestrator.run.test_preparation import OFFLINE, publish
from upcycle.experience.chunks import ChunkSpec, decode_chunk, encode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.log_trimming import count_appended
from upcycle.experience.windows import View
from upcycle.runs.run_folder import RunFolder
from upcycle.runs.runtime import close_logging

pytestmark = pytest.mark.slow

COLLECT = "teacher.collect_frames=400"
TWO = (*OFFLINE, "teacher.also=other", COLLECT, "replay.min_size_to_sample=64")
RELOAD = (
    "phases=rl",
    "teacher.id=catcher",
    "teacher.reload=weights_and_replay",
    COLLECT,
    "replay.min_size_to_sample=300",
    "replay.capacity_steps=512",
)
VIEW, SHORT = View(n_step=3, stack=1), View(n_step=1, stack=1)
OWN = 77
"""The policy version of the student's own experience."""


@pytest.fixture
def store(tmp_path: Path) -> TeacherStore:
    store = TeacherStore(tmp_path / "teachers", bundled=None)
    publish(store, tmp_path)
    publish(store, tmp_path, name="other")
    return store


@contextmanager
def shards_of(folder: RunFolder) -> Generator[ShardedReplay]:
    """All shards of a run as they start, or start again; and a new client of them."""
    folder.forget_processes()
    count = folder.config.replay.num_shards
    processes = [Process("replay", index, folder.path, "127.0.0.1") for index in range(count)]
    spec = ChunkSpec.from_json(folder.manifest["chunk_spec"])
    replay = None
    try:
        for process in processes:
            process.start()
        wait_until(lambda: len(folder.endpoints("replay")) == count or any(p.status()["error"] for p in processes))
        assert [process.status()["error"] for process in processes] == [None] * count
        replay = ShardedReplay(lambda: folder.endpoints("replay"), spec, rng=np.random.default_rng())
        yield replay
    finally:
        if replay is not None:
            replay.close()
        for process in processes:
            assert process.stop(20.0), process.status()
        close_logging()


def draw(replay: ShardedReplay, table: str, draw_seed: int, size: int = 40) -> SampledBatch:
    (batch,) = replay.sample(
        SampleRequest(
            tables=table,
            batch_size=size,
            num_batches=1,
            view=VIEW,
            importance_sampling_exponent=0.5,
            timeout_seconds=20,
            draw_seed=draw_seed,
        )
    )
    return batch


def test_the_table_teacher_is_of_all_teachers_and_the_same_after_a_restart(store: TeacherStore, tmp_path: Path):
    folder = new_run(tmp_path / "run", catch(*TWO))
    logs = [ExperienceLogReader.open(Path(known["log"])) for known in folder.manifest["teachers"]]
    total = sum(log.num_transitions for log in logs)
    with shards_of(folder) as replay:
        stats = replay.stats("teacher")
        assert (stats.num_transitions, stats.num_inserted) == (total, 0)
        assert stats.annotation_width == replay.stats("online").annotation_width == 2 * 3
        assert all(shard.num_transitions > 0.4 * total for shard in stats.shards.values())
        first = [draw(replay, "teacher", draw_seed) for draw_seed in range(10)]
    with shards_of(folder) as replay:
        for draw_seed in (7, 3):
            again = draw(replay, "teacher", draw_seed)
            np.testing.assert_array_equal(again.windows.frames, first[draw_seed].windows.frames)
            np.testing.assert_array_equal(again.windows.action, first[draw_seed].windows.action)
            for name in ("shard", "slot", "offset"):
                np.testing.assert_array_equal(getattr(again.keys, name), getattr(first[draw_seed].keys, name))


def test_a_learner_loads_all_its_teachers(store: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = list[str]()

    def load(record: TeacherRecord, *arguments: Any, **options: Any) -> Teacher:
        loaded.append(record.name)
        return load_teacher(record, *arguments, **options)

    monkeypatch.setattr("orchestrator.processes.learner.load_teacher", load)
    folder = new_run(tmp_path / "run", catch(*TWO, "phases=offline", "offline.learner_steps=30"))
    with shards_of(folder):
        learner = Process("learner", 0, folder.path, "127.0.0.1")
        learner.start()
        wait_until(lambda: learner.status()["state"] in ("finished", "failed"))
        assert learner.stop(20.0)
        assert learner.status()["error"] is None
    assert loaded == ["catcher", "other"]


def test_the_newest_transitions_of_both_share_the_capacity(store: TeacherStore, tmp_path: Path):
    folder = new_run(tmp_path / "run", catch(*TWO, "replay.teacher_capacity_steps=256"))
    with shards_of(folder) as replay:
        stats = replay.stats("teacher")
        assert 256 <= stats.num_transitions <= 256 + 2 * 16  # a chunk of each more, at the most
        assert stats.capacity_steps <= (stats.num_chunks + 4) * 16  # room for what is there


def test_a_run_that_takes_over_a_buffer_learns_at_once_and_its_own_experience_comes_after(
    store: TeacherStore, tmp_path: Path
):
    folder = new_run(tmp_path / "run", catch(*RELOAD))
    log = ExperienceLogReader.open(Path(folder.manifest["teacher"]["log"]))
    assert 400 <= log.num_transitions <= 512
    with shards_of(folder) as replay:
        stats = replay.stats("online")
        assert (stats.num_transitions, stats.num_inserted) == (log.num_transitions, 0)
        assert stats.annotation_width == 0
        draw(replay, "online", 0)  # nobody has acted yet
        chunk = decode_chunk(log.read(0), log.spec)
        versions = np.full_like(chunk.columns["policy_version"], OWN)
        chunk = replace(chunk, columns={**chunk.columns, "policy_version": versions})
        own = [encode_chunk(chunk, log.spec)] * 24
        for number in range(0, 24, 2):  # in step, as the limiter wants it: neither waits for ever
            replay.insert(
                "online", own[number : number + 2], writer_id="actor", first_sequence=number, timeout_seconds=20
            )
            draw(replay, "online", number, 256)
        inserted = replay.stats("online").num_inserted
        assert inserted == 24 * chunk.num_transitions(log.spec)
    with shards_of(folder) as replay:
        stats = replay.stats("online")
        assert (stats.num_inserted, stats.num_chunks) == (0, 512 // 16)
        versions = np.concatenate([batch.policy_version for batch in replay.scan("online", 64, view=SHORT)])
        assert 0 < np.count_nonzero(versions != OWN) < log.num_transitions  # what room is left is the teacher's
        assert np.count_nonzero(versions == OWN) >= inserted - 24  # the last step of a chunk may have no successor
        assert plan_for(folder.config, store.root).to_manifest()["teachers"] == folder.manifest["teachers"]


def test_a_shard_keeps_its_log_within_bounds_and_fills_up_again_from_it(
    store: TeacherStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ExperienceLogWriter.open.__func__, "__kwdefaults__", {"segment_bytes": 2_000})
    monkeypatch.setattr("orchestrator.processes.replay_shard._TRIM_SECONDS", 0.0)
    bounds = ("replay.log_keep_steps=600", "replay.num_shards=1", "replay.error_buffer_steps=100000")
    folder = new_run(tmp_path / "run", catch(*RELOAD, *bounds))
    played = ExperienceLogReader.open(Path(folder.manifest["teacher"]["log"]))
    data = played.read(0)
    count = decode_chunk(data, played.spec).num_transitions(played.spec)
    log = folder.experience / "shard-0"
    with shards_of(folder) as replay:
        for number in range(200):
            replay.insert("online", [data], writer_id="actor", first_sequence=number, timeout_seconds=20)
        wait_until(lambda: ExperienceLogReader.open(log).num_transitions < 1_000)
        assert ExperienceLogReader.open(log).num_transitions >= 600
        assert replay.stats("online").num_inserted == 200 * count
    assert count_appended(log) == 200 * count
    with shards_of(folder) as replay:
        assert replay.stats("online").num_chunks == 512 // 16
        assert replay.stats("online").num_inserted == 0
