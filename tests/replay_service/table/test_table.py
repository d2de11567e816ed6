"""The table against a plain list of chunks."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_service.table.table import Table
from replay_service.table.types import TableConfig
from tests.helpers.chunk_factory import SPEC, VIEW, make_chunk, table_config
from tests.helpers.lanes import cut_chunks, expected_transition, make_lane
from upcycle.errors import UserError
from upcycle.experience.chunks import MAX_PRIORITY
from upcycle.experience.windows import View

SLOTS = 3


def make_table(config: TableConfig | None = None, *, seed: int = 0, first_generation: int = 1) -> Table:
    config = config or table_config(capacity_steps=SLOTS * SPEC.steps, priority_exponent=0.5)
    return Table(config, SPEC, rng=np.random.default_rng(seed), first_generation=first_generation)


@dataclass
class Oracle:
    """Priorities by chunk number and offset, of the newest chunks."""

    chunks: dict[int, dict[int, float]] = field(default_factory=dict[int, dict[int, float]])
    max_priority: float = 1.0
    inserted: int = 0

    def insert(self, number: int, priorities: list[float]) -> None:
        finite = [priority for priority in priorities if np.isfinite(priority)]
        self.max_priority = max(self.max_priority, *finite, 0.0)
        self.chunks[number] = {
            offset: priority if np.isfinite(priority) else self.max_priority
            for offset, priority in enumerate(priorities)
            if priority > 0
        }
        self.inserted += len(self.chunks[number])
        while len(self.chunks) > SLOTS:
            del self.chunks[min(self.chunks)]

    def probabilities(self) -> dict[tuple[int, int], float]:
        weights = {(number, at): p**0.5 for number, chunk in self.chunks.items() for at, p in chunk.items()}
        return {key: weight / sum(weights.values()) for key, weight in weights.items()}


PRIORITY = st.one_of(st.just(0.0), st.floats(0.0625, 100.0, width=32), st.just(MAX_PRIORITY))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_sequence_of_calls_leaves_the_table_like_a_plain_list(data: st.DataObject) -> None:
    table, oracle, number = make_table(), Oracle(), 0
    keys = list[tuple[int, int, int, int]]()  # chunk number, slot, offset, generation: all that were ever sampled
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["insert", "insert", "repeat", "sample", "update", "remask"])):
            case "insert":
                number += 1
                priorities = data.draw(st.lists(PRIORITY, min_size=SPEC.steps, max_size=SPEC.steps))
                assert table.insert(make_chunk(number, priorities=priorities), writer_id="w", sequence=number)
                oracle.insert(number, priorities)
            case "repeat" if number:
                assert not table.insert(make_chunk(99), writer_id="w", sequence=number)
            case "sample":
                sample, expected = table.sample(data.draw(st.integers(1, 6)), VIEW), oracle.probabilities()
                assert (len(sample.draw.slot) > 0) == (len(expected) > 0)
                for row in range(len(sample.draw.slot)):
                    drawn, offset = int(sample.policy_version[row]), int(sample.draw.offset[row])
                    assert sample.draw.probability[row] == pytest.approx(expected[drawn, offset], rel=1e-9)
                    assert bool((sample.windows.frames[row] == drawn).all())
                    keys.append((drawn, int(sample.draw.slot[row]), offset, int(sample.draw.generation[row])))
            case "update" if keys:
                chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=6))
                priorities = data.draw(st.lists(st.floats(0.01, 200), min_size=len(chosen), max_size=len(chosen)))
                columns = np.array(chosen)
                stale = table.update_priorities(columns[:, 1], columns[:, 2], columns[:, 3], np.array(priorities))
                assert stale == sum(key[0] not in oracle.chunks for key in chosen)
                for key, priority in zip(chosen, priorities, strict=True):
                    if key[0] in oracle.chunks:
                        oracle.chunks[key[0]][key[2]] = priority
                        oracle.max_priority = max(oracle.max_priority, priority)
            case "remask":
                table.set_n_step(data.draw(st.integers(1, SPEC.lookahead)))
                table.check_invariants()
                table.set_n_step(VIEW.n_step)
            case _:
                pass
        table.check_invariants()
        stats = table.stats()
        assert stats.num_transitions == sum(map(len, oracle.chunks.values())) == stats.num_drawable
        assert (stats.num_chunks, stats.num_inserted) == (len(oracle.chunks), oracle.inserted)
        assert stats.max_priority == oracle.max_priority
        assert stats.mass == pytest.approx(sum(p**0.5 for chunk in oracle.chunks.values() for p in chunk.values()))


def test_draws_follow_the_probabilities() -> None:
    table = make_table(table_config(capacity_steps=SPEC.steps, priority_exponent=1.0))
    priorities = np.arange(SPEC.steps, dtype=float)  # the first of them cannot be drawn
    table.insert(make_chunk(1, priorities=priorities), writer_id="w", sequence=0)
    draws = 50 * 560
    counts = np.bincount(np.concatenate([table.sample(560, VIEW).draw.offset for _ in range(50)]), minlength=SPEC.steps)
    # Stratified: each batch of 560 meets each expectation (a whole number here) to within its two borders.
    np.testing.assert_allclose(counts, draws * priorities / priorities.sum(), atol=2 * 50)
    assert counts[0] == 0


def test_uniform_ignores_priorities() -> None:
    table = make_table(table_config(capacity_steps=SPEC.steps, sampler="uniform"))
    table.insert(make_chunk(1, priorities=[1, 100, 0, 1, 1, 1, 1, MAX_PRIORITY]), writer_id="w", sequence=0)
    sample = table.sample(70, VIEW)
    assert sample.draw.probability == pytest.approx(np.full(70, 1 / 7))
    assert np.bincount(sample.draw.offset, minlength=8)[[0, 1, 3, 4, 5, 6, 7]].tolist() == pytest.approx(
        [10] * 7, abs=2
    )
    assert table.update_priorities(sample.draw.slot, sample.draw.offset, sample.draw.generation, np.full(70, 5.0)) == 0
    table.check_invariants()
    assert table.sample(1, VIEW).draw.probability == pytest.approx([1 / 7])


def test_unrated_chunks_get_the_highest_priority_seen_anywhere() -> None:
    table = make_table()
    table.raise_max_priority(16.0)  # at another shard
    table.insert(make_chunk(1, priorities=[MAX_PRIORITY] * 8), writer_id="w", sequence=0)
    table.insert(make_chunk(2, priorities=[1.0] * 8), writer_id="w", sequence=1)
    assert table.stats().mass == pytest.approx(8 * 4 + 8 * 1)
    assert table.stats().max_priority == 16.0


def test_windows_of_whole_lanes_come_out_right() -> None:
    lane = make_lane(SPEC, [5, 9, 3, 12, 2], ["terminated", "truncated", "terminated", "truncated", "open"], seed=5)
    chunks, origin = cut_chunks(SPEC, lane)
    table = Table(table_config(capacity_steps=len(chunks) * SPEC.steps), SPEC, rng=np.random.default_rng(0))
    for number, chunk in enumerate(chunks):
        table.insert(chunk, writer_id="w", sequence=number)
    for view in (View(n_step=2, stack=2, gamma=0.9), View(n_step=1, stack=1, gamma=0.8, clip_rewards=False)):
        sample = table.sample(400, view)
        found = set[tuple[int, int]]()
        for row, (slot, offset) in enumerate(zip(sample.draw.slot.tolist(), sample.draw.offset.tolist(), strict=True)):
            episode, step = origin[slot * SPEC.steps + offset + SPEC.history].tolist()
            expected = expected_transition(SPEC, lane, episode, step, view)
            assert expected is not None
            found.add((episode, step))
            np.testing.assert_array_equal(sample.windows.frames[row, : view.stack], expected.observation)
            assert sample.windows.action[row] == expected.action
            assert sample.windows.n_step_return[row] == pytest.approx(expected.n_step_return, abs=1e-5)
            assert sample.windows.discount[row] == pytest.approx(expected.discount)
            if expected.next_observation is not None:
                np.testing.assert_array_equal(sample.windows.frames[row, view.n_step :], expected.next_observation)
        everything = {
            (number, step)
            for number, episode in enumerate(lane)
            for step in range(episode.length)
            if expected_transition(SPEC, lane, number, step, view) is not None
        }
        assert found == everything
        assert table.stats().num_drawable == len(everything)


def test_a_short_chunk_leaves_nothing_of_the_one_it_replaces() -> None:
    table = make_table(table_config(capacity_steps=SPEC.steps))
    table.insert(make_chunk(1), writer_id="w", sequence=0)
    table.insert(make_chunk(2, rows=SPEC.history + 3), writer_id="w", sequence=1)
    table.check_invariants()
    # Three usable rows, of which two have the next state in the chunk.
    assert (table.stats().num_transitions, table.stats().num_drawable) == (3, 2)
    assert set(table.sample(50, VIEW).policy_version.tolist()) == {2}


def test_keys_of_an_earlier_incarnation_are_stale() -> None:
    before, after = make_table(first_generation=1 << 32), make_table(first_generation=2 << 32)
    for table in (before, after):
        table.insert(make_chunk(1), writer_id="w", sequence=0)
    sample = before.sample(4, VIEW)
    assert after.update_priorities(sample.draw.slot, sample.draw.offset, sample.draw.generation, np.full(4, 9.0)) == 4
    assert after.stats().num_stale_updates == 4
    assert after.stats().max_priority == 1.0


def test_duplicates_are_counted_and_writers_do_not_share_numbers() -> None:
    table = make_table()
    assert table.insert(make_chunk(1), writer_id="a", sequence=7)
    assert not table.insert(make_chunk(2), writer_id="a", sequence=7)
    assert table.insert(make_chunk(3), writer_id="b", sequence=7)
    assert table.stats().num_duplicate_chunks == 1
    assert table.stats().num_transitions == 16
    assert set(table.sample(40, VIEW).policy_version.tolist()) == {1, 3}


def test_a_full_table_is_large_enough_however_short_its_chunks_are() -> None:
    table = make_table(
        table_config(capacity_steps=16, min_size_to_sample=16, samples_per_insert=1.0, error_buffer_steps=8)
    )
    for number in range(2):
        assert table.may_insert(4)
        assert not table.stats().flow.may_sample(1)
        table.insert(make_chunk(number, priorities=[1, 1, 1, 1, 0, 0, 0, 0]), writer_id="w", sequence=number)
    assert table.stats().num_transitions == 8
    assert table.stats().flow.may_sample(1)


@pytest.mark.parametrize(
    ("keys", "priority"),
    [((3, 0), 1.0), ((-1, 0), 1.0), ((0, 8), 1.0), ((0, -1), 1.0), ((0, 0), 0.0), ((0, 0), np.nan), ((0, 0), np.inf)],
)
def test_impossible_updates_are_refused_and_change_nothing(keys: tuple[int, int], priority: float) -> None:
    table = make_table()
    table.insert(make_chunk(1), writer_id="w", sequence=0)
    slots, offsets = np.array([0, keys[0]]), np.array([0, keys[1]])
    mass = table.stats().mass
    with pytest.raises(ValueError, match=r"priorities must be|outside the table"):
        table.update_priorities(slots, offsets, np.array([1, 1]), np.array([5.0, priority]))
    assert table.stats().mass == mass


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capacity_steps": 0}, "replay.capacity_steps"),
        ({"min_size_to_sample": 81}, "replay.min_size_to_sample"),
        ({"samples_per_insert": 8.0, "error_buffer_steps": 7}, "replay.error_buffer_steps"),
        ({"samples_per_insert": 0.1, "error_buffer_steps": 9}, "replay.error_buffer_steps"),
    ],
)
def test_tables_that_would_wait_for_ever_are_refused(changes: dict[str, float], field: str) -> None:
    with pytest.raises(UserError) as failure:
        make_table(replace(table_config(), **changes))
    assert failure.value.field == field


def test_a_view_beyond_the_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match="n_step 3"):
        make_table().sample(1, View(n_step=3, stack=2))
