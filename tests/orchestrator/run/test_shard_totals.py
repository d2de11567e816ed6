"""What the shards of a run hold together: how alike they are, and how people and Prometheus see it."""

import pytest

from orchestrator.run.shard_totals import in_words, samples_per_insert, spread


def shard(num_stored: int, *, draining: bool = False, oldest_seconds: float | None = 60.0) -> dict[str, object]:
    fill = num_stored / 10_000
    return {"num_stored": num_stored, "fill": fill, "draining": draining, "oldest_seconds": oldest_seconds}


def test_spread_is_that_of_the_shards_that_take_chunks() -> None:
    found = spread([shard(4480, oldest_seconds=900), shard(10_000, oldest_seconds=90), shard(10, draining=True), {}])
    assert found is not None
    assert found.to_json() == {
        "num_shards": 2,
        "transitions": [4480, 10_000],
        "fill": [0.448, 1.0],
        "oldest_seconds": [90.0, 900.0],
        "ratio": pytest.approx(0.552),
    }
    assert in_words(found.to_json()) == (
        "2 shards hold 4,480 to 10,000 transitions, 45% to 100% of what they can; the oldest came 90 to 900 s ago"
    )


def test_ages_are_shown_once_that_of_every_shard_is_known() -> None:
    found = spread([shard(100), shard(100, oldest_seconds=None)])
    assert found is not None
    assert found.oldest_seconds is None
    assert in_words(found.to_json()) == "2 shards hold 100 to 100 transitions, 1% to 1% of what they can"


def test_before_any_answer_there_is_nothing_to_show() -> None:
    assert spread([{}, shard(5, draining=True)]) is None
    assert samples_per_insert([{}]) is None


def test_samples_per_insert_are_weighted_by_inserts() -> None:
    details = [{"num_inserted": 30.0, "samples_per_insert": 8.0}, {"num_inserted": 10.0, "samples_per_insert": 4.0}]
    assert samples_per_insert([*details, {}]) == 7.0
