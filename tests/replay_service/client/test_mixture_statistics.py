"""The expected gradient of a mixture is the sum of the tables' expectations, each times its share.

The test is that of `test_sharded_statistics`, which says what alpha, power and effect are: n = 150 batches of 128,
D = 4 components, Hotelling's T^2 against the exact expectation, alpha 1e-4, power 0.999 against a shift of 0.66
standard deviations of one batch's gradient. The shares are such that the counts are not whole (38.4 and 89.6 rows), so
that their rounding is part of what is tested; wrong counts in one batch of four are rejected.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from replay_service.client.allocation import mixture_counts
from replay_service.table.types import SampledBatch, SampleRequest
from tests.helpers.chunk_factory import VIEW, connected, make_data, running_shards, table_config
from tests.replay_service.client.test_sharded_statistics import (
    ALPHA,
    BATCH_SIZE,
    BATCHES,
    PRIORITY_EXPONENT,
    WEIGHT_EXPONENT,
    Oracle,
    model,
    p_value,
    unequal_oracle,
)
from upcycle.experience.chunks import Array

SHARES = {"online": 0.3, "teacher": 0.7}
EXPONENTS = {"online": PRIORITY_EXPONENT, "teacher": 0.0}
SHIFT = {"online": 3.0, "teacher": -1.0}
"""Added to the errors of a table's transitions, so that the gradient tells the tables apart."""

TABLES = [
    table_config("online", capacity_steps=400, priority_exponent=PRIORITY_EXPONENT),
    table_config("teacher", capacity_steps=400, sampler="uniform", stratified=False),
]


@pytest.fixture(scope="module")
def oracles() -> dict[str, Oracle]:
    return {"online": unequal_oracle(15, seed=9), "teacher": unequal_oracle(6, seed=10)}


def draw_batches(oracles: dict[str, Oracle]) -> list[SampledBatch]:
    with running_shards(TABLES, count=3, seed=6) as (_, addresses), connected(addresses, seed=7) as replay:
        for name, oracle in oracles.items():
            for number, priorities in enumerate(oracle.priorities):
                with connected({0: addresses[min(number // 4, 2)]}) as single:  # of unequal mass and size
                    data = make_data(number, priorities=priorities)
                    single.insert(name, [data], writer_id="w", first_sequence=number, timeout_seconds=10)
        batches = list[SampledBatch]()
        while len(batches) < BATCHES:
            batches += replay.sample(
                SampleRequest(
                    tables=SHARES,
                    batch_size=BATCH_SIZE,
                    num_batches=3,
                    view=VIEW,
                    importance_sampling_exponent=WEIGHT_EXPONENT,
                    timeout_seconds=10,
                )
            )
        return batches


def gradients(batches: Sequence[SampledBatch], oracles: dict[str, Oracle]) -> Array:
    """Of each batch, with weights (N P)^-beta of the row's own table. [BATCHES, D]."""
    gradient = list[Array]()
    for batch in batches:
        rows = list[Array]()
        for number, name in enumerate(batch.keys.tables):
            mine, (features, errors) = batch.keys.table == number, model(oracles[name])
            drawn = (batch.policy_version[mine], batch.keys.offset[mine])
            probabilities = batch.probabilities[mine] / SHARES[name]
            weights = (oracles[name].num_items * probabilities) ** -WEIGHT_EXPONENT
            rows.append((weights * (errors[drawn] + SHIFT[name]))[:, None] * features[drawn])
        gradient.append(np.concatenate(rows).mean(axis=0))
    return np.array(gradient)


def expected_gradient(oracles: dict[str, Oracle]) -> Array:
    """Its exact expectation, [D]."""
    total = np.zeros(4)
    for name, oracle in oracles.items():
        features, errors = model(oracle)
        probabilities = oracle.probabilities(EXPONENTS[name])
        weights = np.where(
            probabilities > 0, (oracle.num_items * np.maximum(probabilities, 1e-300)) ** -WEIGHT_EXPONENT, 0
        )
        values = (probabilities * weights * (errors + SHIFT[name]))[:, :, None] * features
        total += SHARES[name] * values.sum(axis=(0, 1))
    return total


@pytest.mark.slow
def test_the_expected_gradient_is_exact(oracles: dict[str, Oracle]) -> None:
    batches = draw_batches(oracles)
    counts = np.array([np.count_nonzero(batch.keys.table == 0) for batch in batches])
    assert set(counts.tolist()) == {38, 39}
    assert (np.abs(counts.reshape(-1, 3).sum(axis=1) - 3 * 38.4) < 1).all()
    assert p_value(gradients(batches, oracles), expected_gradient(oracles)) > ALPHA


def test_wrong_counts_in_one_batch_of_four_are_rejected(
    oracles: dict[str, Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(parts: Array, batch_size: int, num_batches: int, rng: np.random.Generator) -> Array:
        counts = mixture_counts(parts, batch_size, num_batches, rng)
        return counts[:, ::-1].copy() if rng.random() < 0.25 else counts

    monkeypatch.setattr("replay_service.client.mixture_sampler.mixture_counts", mistaken)
    assert p_value(gradients(draw_batches(oracles), oracles), expected_gradient(oracles)) < ALPHA


def test_drawing_the_tables_as_if_they_were_one_is_rejected(
    oracles: dict[str, Oracle], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = np.array([oracle.num_items for oracle in oracles.values()])

    def by_size(_: Array, batch_size: int, num_batches: int, rng: np.random.Generator) -> Array:
        return mixture_counts(sizes / sizes.sum(), batch_size, num_batches, rng)

    monkeypatch.setattr("replay_service.client.mixture_sampler.mixture_counts", by_size)
    assert p_value(gradients(draw_batches(oracles), oracles), expected_gradient(oracles)) < ALPHA
