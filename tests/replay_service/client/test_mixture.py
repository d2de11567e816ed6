"""Mixtures: exact shares, weights of each table by itself, each table's own limiter, one array of frames."""

from collections.abc import Iterable
from typing import get_args

import numpy as np
import pytest

from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, Tier, Transport
from tests.helpers.chunk_factory import SPEC, VIEW, connected, make_data, running_shards, table_config
from upcycle.errors import UserError
from upcycle.experience.chunks import Array

TEACHER = 100
"""Chunks of the table `teacher` are numbered from here on, so that a row shows which table it is of."""

ONLINE_TABLE = table_config("online", capacity_steps=800, priority_exponent=0.6)
TEACHER_TABLE = table_config("teacher", capacity_steps=800, sampler="uniform")
LIMITS = {"samples_per_insert": 1.0, "error_buffer_steps": 16, "min_size_to_sample": 8}


def insert(replay: ShardedReplay, table: str, numbers: Iterable[int], *, priorities: Array | None = None) -> None:
    for number in numbers:
        data = make_data(number, priorities=priorities)
        replay.insert(table, [data], writer_id="w", first_sequence=number, timeout_seconds=10)


def mix(
    replay: ShardedReplay,
    shares: dict[str, float],
    batch_size: int,
    num_batches: int = 1,
    *,
    beta: float = 0.5,
    timeout_seconds: float = 10.0,
) -> list[SampledBatch]:
    return replay.sample(
        SampleRequest(
            tables=shares,
            batch_size=batch_size,
            num_batches=num_batches,
            view=VIEW,
            importance_sampling_exponent=beta,
            timeout_seconds=timeout_seconds,
        )
    )


def table_of(batch: SampledBatch) -> Array:
    assert batch.keys.table is not None
    return batch.keys.table


@pytest.mark.parametrize("transport", get_args(Transport))
@pytest.mark.parametrize("tier", get_args(Tier))
def test_every_batch_holds_exact_shares_in_one_array(tier: Tier, transport: Transport) -> None:
    tables = [ONLINE_TABLE, table_config("teacher", capacity_steps=800, tier=tier)]
    given_out = list[Array]()

    def allocate(shape: tuple[int, ...], dtype: str) -> Array:
        given_out.append(np.empty(shape, dtype))
        return given_out[-1]

    with (
        running_shards(tables, count=3) as (_, addresses),
        connected(addresses, transport=transport) as replay,
    ):
        insert(replay, "online", range(9))
        insert(replay, "teacher", range(TEACHER, TEACHER + 9))
        batches = replay.sample(
            SampleRequest(
                tables={"teacher": 0.25, "online": 0.75},
                batch_size=48,
                num_batches=5,
                view=VIEW,
                importance_sampling_exponent=0.5,
                timeout_seconds=10,
                allocate=allocate,
            )
        )
    assert [id(batch.windows.frames) for batch in batches] == [id(array) for array in given_out]
    for batch in batches:
        assert batch.keys.tables == ("teacher", "online")
        assert table_of(batch).tolist() == [0] * 12 + [1] * 36
        np.testing.assert_array_equal(batch.policy_version < TEACHER, table_of(batch) == 1)
        assert batch.windows.frames.shape == (48, 3, *SPEC.frame_shape)
        assert (batch.windows.frames == batch.policy_version[:, None, None, None]).all()
        np.testing.assert_allclose(batch.windows.n_step_return, np.clip(batch.policy_version % 7, 0, 1))
        assert len(batch.windows.action) == len(batch.windows.discount) == len(batch.importance_weights) == 48
        assert len(set(batch.keys.shard.tolist())) == 3


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_probabilities_and_weights_are_those_of_each_table(num_shards: int, beta: float) -> None:
    """Against NumPy, for two tables of different size, mass and sampler, and priorities that move."""
    rng = np.random.default_rng(5)
    raw = {
        "online": np.geomspace(0.1, 30.0, 12)[:, None] * rng.uniform(0.5, 2.0, (12, SPEC.steps)),
        "teacher": rng.uniform(0.5, 2.0, (5, SPEC.steps)),
    }
    raw["teacher"][rng.random((5, SPEC.steps)) < 0.3] = 0.0
    priorities = {name: values.astype(np.float32).astype(np.float64) for name, values in raw.items()}
    first, share = {"online": 0, "teacher": TEACHER}, {"online": 0.7, "teacher": 0.3}
    with (
        running_shards([ONLINE_TABLE, TEACHER_TABLE], count=num_shards, seed=3) as (_, addresses),
        connected(addresses) as replay,
    ):
        for name, values in priorities.items():
            for number, row in enumerate(values):
                insert(replay, name, [first[name] + number], priorities=row)
        for round_number in range(4):
            (batch,) = mix(replay, share, 100, beta=beta)
            probability, weight = np.zeros(100), np.zeros(100)
            for number, name in enumerate(batch.keys.tables):
                mine = table_of(batch) == number
                assert np.count_nonzero(mine) == round(100 * share[name])
                exponent = 0.6 if name == "online" else 0.0
                masses = np.where(priorities[name] > 0, np.maximum(priorities[name], 1e-9) ** exponent, 0.0)
                place = (batch.policy_version[mine] - first[name], batch.keys.offset[mine])
                exact = (masses / masses.sum())[place]
                probability[mine] = share[name] * exact
                weight[mine] = (np.count_nonzero(masses) * exact) ** -beta
            np.testing.assert_allclose(batch.probabilities, probability, rtol=1e-9)
            np.testing.assert_allclose(batch.importance_weights, weight / weight.max(), rtol=1e-6)
            updated = np.random.default_rng(round_number).uniform(0.01, 30.0, 100)
            replay.update_priorities(None, batch.keys, updated)
            for number, name in enumerate(batch.keys.tables):
                mine = table_of(batch) == number
                place = (batch.policy_version[mine] - first[name], batch.keys.offset[mine])
                priorities[name][place] = updated[mine]
        assert replay.stats("online").num_stale_updates == replay.stats("teacher").num_stale_updates == 0


def test_keys_of_a_mixture_name_their_tables() -> None:
    tables = [ONLINE_TABLE, table_config("teacher", capacity_steps=800, annotation_width=2)]
    with running_shards(tables, count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(4))
        insert(replay, "teacher", range(TEACHER, TEACHER + 4))
        (batch,) = mix(replay, {"online": 0.5, "teacher": 0.5}, 40)
        for table, keys in (("online", batch.keys), (None, batch.keys.take(np.arange(20)))):
            with pytest.raises(ValueError, match="name the table"):
                replay.update_priorities(table, keys, np.ones(len(keys.slot)))
        replay.update_priorities(None, batch.keys, np.where(table_of(batch) == 0, 3.0, 7.0))
        assert [replay.stats(name).max_priority for name in ("online", "teacher")] == [3.0, 7.0]
        assert batch.annotated is not None
        assert not batch.annotated.any()
        with pytest.raises(UserError, match="'online'"):  # it keeps none, so nothing is written anywhere
            replay.annotate(None, batch.keys, np.ones((40, 2), np.float32))
        assert replay.stats("teacher").num_annotated == 0
        mine = np.flatnonzero(table_of(batch) == 1)
        assert replay.annotate("teacher", batch.keys.take(mine), np.full((20, 2), 5.0)) == 20
        known = {(s, slot, at) for s, slot, at in zip(*places(batch, mine), strict=True)}
        (after,) = mix(replay, {"online": 0.5, "teacher": 0.5}, 400)
        assert after.annotated is not None
        assert after.annotation is not None
        rows = zip(*places(after, np.arange(400)), table_of(after).tolist(), strict=True)
        assert after.annotated.tolist() == [table == 1 and (s, slot, at) in known for s, slot, at, table in rows]
        np.testing.assert_array_equal(after.annotation, np.where(after.annotated, 5.0, 0.0)[:, None].repeat(2, axis=1))


def places(batch: SampledBatch, rows: Array) -> tuple[list[int], list[int], list[int]]:
    keys = batch.keys.take(rows)
    return keys.shard.tolist(), keys.slot.tolist(), keys.offset.tolist()


def test_annotations_of_a_mixture_go_to_each_table() -> None:
    tables = [table_config(name, capacity_steps=800, annotation_width=2) for name in ("online", "teacher")]
    with running_shards(tables, count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(4))
        insert(replay, "teacher", range(TEACHER, TEACHER + 4))
        (batch,) = mix(replay, {"online": 0.25, "teacher": 0.75}, 40)
        values = np.stack([batch.policy_version, batch.keys.offset], axis=1)
        some = np.arange(0, 40, 3)  # of both tables, which the chosen keys still name
        assert replay.annotate(None, batch.keys.choose(some), values[some]) == len(some)
        assert replay.annotate(None, batch.keys, values) == 40
        for name, number in (("online", 0), ("teacher", 1)):
            distinct = {tuple(row) for row in values[table_of(batch) == number].tolist()}
            assert replay.stats(name).num_annotated == len(distinct)
        (after,) = mix(replay, {"online": 0.25, "teacher": 0.75}, 400)
        assert after.annotation is not None
        assert after.annotated is not None
        assert after.annotated.any()
        expected = np.stack([after.policy_version, after.keys.offset], axis=1) * after.annotated[:, None]
        np.testing.assert_array_equal(after.annotation, expected)


def test_tables_of_different_widths_are_not_mixed() -> None:
    tables = [table_config("online", annotation_width=2), table_config("teacher", annotation_width=3)]
    with running_shards(tables) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(2))
        insert(replay, "teacher", range(2))
        with pytest.raises(UserError, match="differs between the tables"):
            mix(replay, {"online": 0.5, "teacher": 0.5}, 8)


@pytest.mark.parametrize(
    "shares",
    [{"online": 0.5, "teacher": 0.4}, {"online": 1.5, "teacher": -0.5}, {"online": float("nan"), "teacher": 1.0}, {}],
)
def test_shares_that_make_no_sense_are_refused(shares: dict[str, float]) -> None:
    with running_shards([ONLINE_TABLE]) as (_, addresses), connected(addresses) as replay:
        with pytest.raises(UserError) as failure:
            mix(replay, shares, 8)
        assert failure.value.field == "shares"


def test_sizes_and_tables_that_make_no_sense_are_refused() -> None:
    with running_shards([ONLINE_TABLE]) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(2))
        for sizes in ((0, 1), (8, 0)):
            with pytest.raises(ValueError, match="must be above 0"):
                mix(replay, {"online": 1.0}, *sizes)
        with pytest.raises(UserError, match="no such table"):
            mix(replay, {"online": 0.5, "offline": 0.5}, 8)


def test_a_table_without_a_share_is_not_asked() -> None:
    """It may be empty; a rehearsal that has faded to nothing goes on."""
    with running_shards([ONLINE_TABLE, TEACHER_TABLE]) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(2))
        (batch,) = mix(replay, {"teacher": 0.0, "online": 1.0}, 8)
        assert table_of(batch).tolist() == [1] * 8
        with pytest.raises(ReplayTimeout, match="'teacher'"):
            mix(replay, {"teacher": 0.5, "online": 0.5}, 8, timeout_seconds=0.1)


def test_a_small_share_gives_rows_to_some_batches_only() -> None:
    with running_shards([ONLINE_TABLE, TEACHER_TABLE], count=2) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(4))
        insert(replay, "teacher", range(TEACHER, TEACHER + 4))
        batches = mix(replay, {"teacher": 0.05, "online": 0.95}, 4, 10)  # 0.2 rows a batch
        assert sorted(np.count_nonzero(table_of(batch) == 0) for batch in batches) == [0] * 8 + [1] * 2
        for batch in batches:
            assert len(batch.importance_weights) == 4
            np.testing.assert_array_equal(batch.policy_version >= TEACHER, table_of(batch) == 0)
            assert (batch.windows.frames == batch.policy_version[:, None, None, None]).all()


def test_batches_without_a_row_of_the_annotated_table_have_annotations_too() -> None:
    """A learner finds the same columns in each batch, however the rounding falls."""
    tables = [ONLINE_TABLE, table_config("teacher", capacity_steps=800, annotation_width=2)]
    with running_shards(tables) as (_, addresses), connected(addresses) as replay:
        insert(replay, "online", range(4))
        insert(replay, "teacher", range(TEACHER, TEACHER + 4))
        counts = list[int]()
        for _ in range(20):
            (batch,) = mix(replay, {"teacher": 0.1, "online": 0.9}, 4)
            counts.append(int(np.count_nonzero(table_of(batch) == 0)))
            assert batch.annotation is not None
            assert batch.annotation.shape == (4, 2)
        assert set(counts) == {0, 1}
