"""Resuming is exact: whatever killed the learner, and whenever, it ends with the bits of the uninterrupted run."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.checkpoint import CheckpointFolder
from learner.train_step import train_step
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.server.shard import ReplayShard
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, TableConfig
from teacher_store.teacher import Teacher
from tests.helpers.cartpole_learner import BASE, CHUNKS, new_learner
from upcycle.config.run import RunConfig
from upcycle.experience.chunks import decode_chunk
from upcycle.experience.experience_log import ExperienceLogReader, ExperienceLogWriter
from upcycle.experience.windows import View
from upcycle.runs.metrics import Metrics
from upcycle.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow

STEPS = 45
EVERY_STEP = 1e-6  # seconds between checkpoints


class Killed(Exception):
    """Stands for kill -9: nothing is written any more."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, experience: list[bytes]) -> Path:
    path = tmp_path_factory.mktemp("resume") / "log"
    with ExperienceLogWriter.open(path, CHUNKS, RunConfig.model_validate(BASE).env) as writer:
        for data in experience:
            writer.append(data, decode_chunk(data, CHUNKS).num_transitions(CHUNKS))
    return path


@contextmanager
def shards(log: Path) -> Generator[ShardedReplay]:
    """Two new shards that hold the log in their table `teacher`, and a client with a seed of its own."""
    tables = [TableConfig("online", 4000), TableConfig("teacher", 4000, annotation_width=2)]
    running = [
        ReplayShard(index=k, spec=CHUNKS, tables=tables, log=None, metrics=Metrics("replay", "test", k))
        for k in range(2)
    ]
    for shard in running:
        shard.seed("teacher", ExperienceLogReader.open(log), shard.index, 2)
    addresses = {shard.index: shard.start() for shard in running}
    client = ShardedReplay(lambda: addresses, CHUNKS, rng=np.random.default_rng())
    try:
        yield client
    finally:
        client.close()
        for shard in running:
            shard.stop(0.5)


def new_run(path: Path, **changes: Any) -> RunFolder:
    learner: dict[str, Any] = BASE["learner"] | {"checkpoint_seconds": EVERY_STEP, "weight_average_decay": 0.9}
    values = BASE | {"learner": learner, "offline": {"learner_steps": STEPS}} | changes
    return RunFolder.create(path, RunConfig.model_validate(values), random_score=0.0)


def run_learner(folder: RunFolder, client: object, teachers: Sequence[Teacher]) -> None:
    new_learner(folder, cast(ShardedReplay, client), teachers)[0].run()


def tensors_of(folder: RunFolder) -> dict[str, Any]:
    found = CheckpointFolder(folder.checkpoints).load_newest()
    assert found is not None
    return found[1]["train_state"]


def assert_same_bits(some: object, other: object) -> None:
    if isinstance(some, Tensor):
        assert isinstance(other, Tensor)
        assert torch.equal(some, other)
    elif isinstance(some, dict):
        assert some.keys() == cast(dict[str, object], other).keys()
        for name, value in cast(dict[str, object], some).items():
            assert_same_bits(value, cast(dict[str, object], other)[name])
    elif isinstance(some, list):
        for one, another in zip(cast(list[object], some), cast(list[object], other), strict=True):
            assert_same_bits(one, another)
    else:
        assert some == other


def killed_at(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the learner dies in the middle of that step, counted from 1."""
    taken = 0

    def step(*arguments: Any, **options: Any) -> object:
        nonlocal taken
        taken += 1
        if taken == steps:
            raise Killed
        return train_step(*arguments, **options)

    monkeypatch.setattr("learner.learner.train_step", step)


@pytest.mark.parametrize("head", ["q", "c51"])
def test_the_offline_phase_ends_with_the_same_bits_however_often_it_is_killed(
    tmp_path: Path, teacher: Teacher, log: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"kind": "mlp", "hidden": 32, "head": head}
    actors = {"initial_priorities": "max"}
    runs = {
        name: new_run(tmp_path / name, phases=["offline"], network=network, actors=actors)
        for name in ("whole", "killed")
    }
    with shards(log) as client:
        run_learner(runs["whole"], client, [teacher])
    for steps in (1, 2, 19):  # a first step, one at a checkpoint's heels, and ones inside a request's batches
        killed_at(steps, monkeypatch)
        with shards(log) as client, pytest.raises(Killed):
            run_learner(runs["killed"], client, [teacher])
    monkeypatch.undo()
    assert 0 < tensors_of(runs["killed"])["learner_steps"] < STEPS
    with shards(log) as client:
        run_learner(runs["killed"], client, [teacher])
    assert tensors_of(runs["whole"])["learner_steps"] == STEPS
    assert_same_bits(tensors_of(runs["killed"]), tensors_of(runs["whole"]))


class Recorded:
    """A stream of batches that was recorded, played from one of them on; it ends with the tape."""

    def __init__(self, tape: Sequence[SampledBatch], first: int) -> None:
        self._tape, self._next = tape, first

    def sample(self, request: SampleRequest) -> list[SampledBatch]:
        assert (request.tables, request.batch_size, request.view.n_step) == ("online", 32, 3)
        if self._next >= len(self._tape):
            raise ReplayTimeout("the tape is over")
        batches = self._tape[self._next : self._next + request.num_batches]
        self._next += request.num_batches
        copies = list[SampledBatch]()
        for batch in batches:
            frames = request.allocate(batch.windows.frames.shape, "float32")
            frames[...] = batch.windows.frames
            weights = batch.importance_weights.copy()
            windows = replace(batch.windows, frames=frames)
            copies.append(replace(batch, windows=windows, importance_weights=weights))
        return copies

    def stats(self, table: str) -> object:
        flow = Flow(None, 1, 1, num_free_inserts=1000)
        return SimpleNamespace(shards={0: TableStats(flow, incarnation=1)})

    def update_priorities(self, *_: object) -> None:
        """Nobody listens."""

    def annotate(self, *_: object) -> int:
        return 0


def test_the_online_phase_fed_from_a_recorded_stream_ends_with_the_same_bits(
    tmp_path: Path, teacher: Teacher, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shards(log) as client:
        tape = client.sample(
            SampleRequest(
                tables="teacher",
                batch_size=32,
                num_batches=STEPS + 8,
                view=View(stack=1, clip_rewards=False),
                importance_sampling_exponent=0.5,
                timeout_seconds=20.0,
                draw_seed=1,
            )
        )
    tape = [replace(batch, annotation=None, annotated=None) for batch in tape]
    network = {"kind": "mlp", "hidden": 32, "noisy": True, "dueling": True}  # draws random numbers in every step
    runs = {name: new_run(tmp_path / name, phases=["online"], network=network) for name in ("whole", "killed")}
    score = {"phase": "online", "policy_version": 1, "normalised": 0.6, "mean_return": 9.0, "kind": "evaluation"}
    score |= {"env_frames": 0, "learner_steps": 0}
    for run in runs.values():
        run.append_score(score)
    for name, last_step in (("whole", STEPS), ("killed", 24), ("killed", STEPS)):
        first = 24 if (runs[name].checkpoints / "step-0000000024.json").exists() else 0
        killed_at(last_step + 1 - first, monkeypatch)
        with pytest.raises(Killed):
            run_learner(runs[name], Recorded(tape, first), [teacher])
        assert tensors_of(runs[name])["learner_steps"] == last_step
    assert_same_bits(tensors_of(runs["killed"]), tensors_of(runs["whole"]))
