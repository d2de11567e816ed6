"""Chunks of a lane of imported rows, against the writer that actors have, and a plain account of the rows."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.chunk_writer import ChunkWriter
from actors.lanes import LaneRows
from teacher_store.importers.imported import Rows
from teacher_store.importers.lane_chunks import lane_chunks, rows_before
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, encode_chunk

NUM_ACTIONS = 3
specs = st.builds(
    ChunkSpec,
    st.just((2,)),
    st.just("float32"),
    st.just(NUM_ACTIONS),
    steps=st.integers(1, 9),
    history=st.integers(0, 3),
    lookahead=st.integers(1, 4),
)
episodes = st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=12)


def lane_of(lengths: list[tuple[int, bool]], *, rest: int) -> Rows:
    """Whole episodes (steps, whether it terminates), then `rest` steps of one that goes on; frames are all unlike."""
    ends = [place for length, by_death in lengths for place in [None] * (length - 1) + [by_death, "final"]]
    ends += [None] * rest
    number = np.arange(1, len(ends) + 1)
    final = np.array([end == "final" for end in ends], bool)
    return Rows(
        frame=np.stack([number, -number], axis=1).astype(np.float32),
        action=np.where(final, 0, number % NUM_ACTIONS).astype(np.int32),
        reward=np.where(final, 0, number).astype(np.float32),
        terminated=np.array([end is True for end in ends], bool),
        truncated=np.array([end is False for end in ends], bool),
        first=np.concatenate([[True], final[:-1]])[: len(ends)],
        final=final,
    )


def blocks_of(rows: Rows, cuts: list[int]) -> list[Rows]:
    bounds = [0, *sorted(min(cut, rows.num_rows) for cut in cuts), rows.num_rows]
    return [rows.part(start, stop) for start, stop in itertools.pairwise(bounds)]


def from_the_actors_writer(rows: Rows, spec: ChunkSpec) -> list[Chunk]:
    """Fed row by row, each with what came back for the row before."""
    writer, chunks = ChunkWriter(spec, 1), list[Chunk]()
    lane = np.zeros(1, np.int32)
    for t in range(rows.num_rows):
        before = slice(t - 1, t) if t else slice(0, 0)

        def came(column: Array, before: slice = before) -> Array:
            return column[before] if before.stop else np.zeros(1, column.dtype)

        ended = came(rows.terminated) | came(rows.truncated)
        received = LaneRows(
            lane=lane,
            observation=rows.frame[t : t + 1, None],
            reward=came(rows.reward),
            terminated=came(rows.terminated),
            truncated=came(rows.truncated),
            first=rows.first[t : t + 1],
            game_over=ended,
            lives=lane,
        )
        chunks += writer.push(received, rows.action[t : t + 1])
    return chunks + writer.flush()


def assert_same_chunks(found: list[Chunk], wanted: list[Chunk], spec: ChunkSpec) -> None:
    assert [encode_chunk(chunk, spec) for chunk in found] == [encode_chunk(chunk, spec) for chunk in wanted]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(spec=specs, lengths=episodes, rest=st.integers(0, 15), cuts=st.lists(st.integers(0, 150), max_size=6))
def test_the_chunks_are_those_of_the_actors_writer(
    spec: ChunkSpec, lengths: list[tuple[int, bool]], rest: int, cuts: list[int]
) -> None:
    rows = lane_of(lengths, rest=rest)
    found = list(lane_chunks(blocks_of(rows, cuts), spec))
    wanted = from_the_actors_writer(rows, spec)
    # At a lane's end the writer leaves out every chunk without a transition; ours are counted by their place.
    assert_same_chunks([chunk for chunk in found if chunk.num_transitions(spec)], _with_transitions(wanted, spec), spec)
    usable = sum(chunk.num_transitions(spec) for chunk in found)
    assert usable == np.count_nonzero(~rows.final[:-1])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    spec=specs,
    lengths=episodes,
    rest=st.integers(0, 15),
    cuts=st.lists(st.integers(0, 150), max_size=6),
    done=st.integers(0, 40),
)
def test_a_lane_goes_on_where_its_chunks_end(
    spec: ChunkSpec, lengths: list[tuple[int, bool]], rest: int, cuts: list[int], done: int
) -> None:
    rows = lane_of(lengths, rest=rest)
    whole = list(lane_chunks([rows], spec))
    done = min(done, len(whole))
    left = rows.part(rows_before(spec, done))
    assert_same_chunks(list(lane_chunks(blocks_of(left, cuts), spec, num_chunks=done)), whole[done:], spec)


def test_chunks_are_views_of_their_block_except_at_its_seams() -> None:
    spec = ChunkSpec((2,), "float32", NUM_ACTIONS, steps=8, history=3, lookahead=2)
    rows = lane_of([(100, True)], rest=0)
    chunks = list(lane_chunks([rows.part(0, 50), rows.part(50)], spec))
    shared = [bool(np.shares_memory(chunk.frame, rows.frame)) for chunk in chunks]
    assert shared.count(False) == 4  # the history of the first, one across the seam, and two at the lane's end


def _with_transitions(chunks: list[Chunk], spec: ChunkSpec) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk.num_transitions(spec)]
