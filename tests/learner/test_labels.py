"""Labels of the teachers: once for each stored state, kept beside it, the same bits whoever computes them."""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from learner.batch_source import BatchSource
from learner.batches import Batch
from learner.labels import TeacherLabels
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import TableConfig, TransitionKeys
from teacher_store.functions import PolicyFunction
from teacher_store.store.publishing import NewTeacher
from teacher_store.store.store import TeacherStore
from teacher_store.teacher import Teacher, load_teacher
from tests.helpers.cartpole_learner import BASE, serve_tables
from upcycle.config.run import NetworkConfig, RunConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array
from upcycle.experience.windows import View
from upcycle.networks.q_network import build_network
from upcycle.networks.torch_io import to_numpy
from upcycle.runs.metrics import Metrics
from upcycle.runs.runtime import StopSignal
from upcycle.runs.snapshots import write_snapshot

VIEW = View(stack=1, clip_rewards=False)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Teacher]:
    path = tmp_path_factory.mktemp("teachers")
    store, loaded = TeacherStore(path / "store", bundled=None), list[Teacher]()
    for name, hidden in (("one", 16), ("two", 24)):
        torch.manual_seed(hidden)
        config = NetworkConfig(kind="mlp", hidden=hidden)
        network = build_network(config, frame_shape=(4,), stack=1, num_actions=2)
        write_snapshot(path / name, to_numpy(network.state_dict()), {})
        record = store.publish(
            NewTeacher(
                name=name,
                env=RunConfig.model_validate(BASE).env,
                network=config,
                frame_shape=(4,),
                frame_stack=1,
                num_actions=2,
                weights=path / name,
            )
        )
        loaded.append(load_teacher(record, store))
    return loaded


@contextmanager
def stored(chunks: list[bytes], *, width: int = 4) -> Generator[ShardedReplay]:
    """Two shards whose table `teacher` holds the chunks."""
    tables = [TableConfig("online", 4000), TableConfig("teacher", 4000, annotation_width=width)]
    with serve_tables(tables) as client:
        client.insert("teacher", chunks, writer_id="test", first_sequence=0, timeout_seconds=20)
        yield client


def new_labels(teachers: list[Teacher]) -> TeacherLabels:
    return TeacherLabels(teachers, CPU, Metrics("learner", "test"))


def scanned(replay: ShardedReplay) -> tuple[Array, Array]:
    """All states of the table and their labels, in the order of storage."""
    batches = list(replay.scan("teacher", 100, view=VIEW, only_missing=False, timeout_seconds=10))
    assert all(batch.annotated is not None and batch.annotated.all() for batch in batches)
    labels = [batch.annotation for batch in batches if batch.annotation is not None]
    return np.concatenate([batch.windows.frames[:, :1] for batch in batches]), np.concatenate(labels)


class Kept:
    """What was handed on."""

    def __init__(self) -> None:
        self.keys: TransitionKeys | None = None
        self.values: Array | None = None

    def annotate(self, keys: TransitionKeys, values: Array) -> None:
        self.keys, self.values = keys, values


def test_one_pass_labels_every_stored_state_once_and_a_second_one_nothing(
    teachers: list[Teacher], experience: list[bytes]
) -> None:
    with stored(experience) as replay:
        num_states = replay.stats("teacher").num_transitions
        labels = new_labels(teachers)
        labels.annotate_table(replay, "teacher", view=VIEW, stop=StopSignal())
        assert labels.num_states == len(teachers) * replay.stats("teacher").num_annotated <= 2 * num_states
        states, values = scanned(replay)
        expected = torch.cat([teacher.values(torch.from_numpy(states)) for teacher in teachers], dim=1)
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5, atol=1e-6)
        again = new_labels(teachers)
        again.annotate_table(replay, "teacher", view=VIEW, stop=StopSignal())
        assert again.num_states == 0


def test_an_interrupted_pass_is_completed_with_the_same_bits(teachers: list[Teacher], experience: list[bytes]) -> None:
    with stored(experience) as replay:
        new_labels(teachers).annotate_table(replay, "teacher", view=VIEW, stop=StopSignal())
        expected = scanned(replay)
    with stored(experience) as replay:
        for rank in (1, 0):  # of two ranks each does half of the batches, and here one after the other
            part = new_labels(teachers)
            part.annotate_table(replay, "teacher", view=VIEW, stop=StopSignal(), rank=rank, ranks=2)
            assert 0 < part.num_states < 2 * len(expected[0])
        for mine, theirs in zip(scanned(replay), expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_stopped_run_does_not_label_on(teachers: list[Teacher], experience: list[bytes]) -> None:
    stop = StopSignal()
    stop.set()
    with stored(experience) as replay:
        labels = new_labels(teachers)
        labels.annotate_table(replay, "teacher", view=VIEW, stop=stop)
        assert labels.num_states == 0


def next_batch(replay: ShardedReplay) -> Batch:
    options: dict[str, Any] = {"importance_sampling_exponent": 0.5, "prefetch_batches": 1, "batches_per_request": 1}
    with BatchSource(replay, "teacher", batch_size=32, view=VIEW, device=CPU, seed=3, **options) as source:
        batch = source.next(20)
    assert batch is not None
    return batch


def test_only_states_without_a_label_are_computed_and_handed_on(
    teachers: list[Teacher], experience: list[bytes]
) -> None:
    with stored(experience) as replay:
        labels, kept = new_labels(teachers), Kept()
        batch = next_batch(replay)
        values = labels.of(batch, kept)
        assert (values.shape, labels.num_states) == ((32, 2, 2), 64)
        for number, teacher in enumerate(teachers):
            torch.testing.assert_close(values[:, number], teacher.values(batch.observation))
        assert kept.keys is not None
        assert kept.values is not None
        replay.annotate("teacher", kept.keys.choose(np.arange(20)), kept.values[:20])
        again, rest = next_batch(replay), Kept()
        assert again.annotated is not None
        missing = int(np.count_nonzero(~again.annotated))
        assert 0 < missing <= 12
        torch.testing.assert_close(labels.of(again, rest), values)
        assert labels.num_states == 64 + 2 * missing
        assert rest.values is not None
        assert rest.values.shape == (missing, 4)


class Sequel:
    """A policy that never says the same twice, in place of `PolicyFunction.call`."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, observation: Array) -> Array:
        self.calls += 1
        return np.full((len(observation), 2), self.calls, np.float32)


def test_a_teacher_that_is_not_cacheable_is_asked_for_every_batch_and_keeps_its_place(
    teachers: list[Teacher], experience: list[bytes]
) -> None:
    call = Sequel()
    policy = PolicyFunction("sequel", "tests", "1", call, "q_values")
    function = policy.describe(seconds_per_state=0.0)
    record = teachers[0].record.model_copy(update={"function": function, "network": None, "weights": None})
    labels = new_labels([Teacher(record, policy, CPU), *teachers])
    with stored(experience) as replay:
        labels.annotate_table(replay, "teacher", view=VIEW, stop=StopSignal())
        before = labels.num_states
        assert (call.calls, before) == (0, len(teachers) * replay.stats("teacher").num_annotated)
        for calls in (1, 2):
            batch = next_batch(replay)
            values = labels.of(batch, Kept())
            assert (values.shape, values[:, 0].unique().tolist()) == ((32, 3, 2), [calls])
            for number, teacher in enumerate(teachers, start=1):
                torch.testing.assert_close(values[:, number], teacher.values(batch.observation))
        assert labels.num_states == before + 2 * 32
    alone, kept = new_labels([Teacher(record, policy, CPU)]), Kept()
    with stored(experience, width=0) as replay:
        alone.annotate_table(replay, "teacher", view=VIEW, stop=StopSignal())
        assert alone.of(next_batch(replay), kept).unique().tolist() == [3]
    assert kept.keys is None


def test_a_table_without_annotations_gets_labels_all_the_same(teachers: list[Teacher], experience: list[bytes]) -> None:
    with stored(experience, width=0) as replay:
        kept, batch = Kept(), next_batch(replay)
        values = new_labels(teachers).of(batch, kept)
        torch.testing.assert_close(values[:, 1], teachers[1].values(batch.observation))
        assert kept.keys is None


def test_a_teacher_whose_values_are_not_finite_is_named_and_nothing_of_it_is_kept(
    teachers: list[Teacher], experience: list[bytes]
) -> None:
    one, two = teachers
    broken = copy.deepcopy(two.network)
    next(iter(broken.parameters())).data.fill_(float("nan"))
    labels = new_labels([one, replace(two, policy=broken)])
    with stored(experience) as client:
        with pytest.raises(UserError, match=f"teacher.id = '{two.record.id}': has values that are not finite"):
            labels.annotate_table(client, "teacher", view=VIEW, stop=StopSignal())
        assert client.stats("teacher").num_annotated == 0
        with pytest.raises(UserError, match=two.record.id):
            labels.of(next_batch(client), Kept())
