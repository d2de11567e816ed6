"""What is measured of the replay service: each figure is a window over a client and the shards it talks to."""

import itertools
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from typing import Final

import numpy as np

from actors.sender import ChunkSender
from benchmarks.cluster import TABLE, Cluster
from benchmarks.measure import Rate, Window, timed
from benchmarks.workload import PRIORITY_EXPONENT, VIEW, WINDOW_FRAMES, Play, chunks_of, encoded, lane_rows
from replay_service.client.sharded_replay import ShardedReplay
from replay_service.table.table import Table
from replay_service.table.types import ReplayTimeout, SampledBatch, SampleRequest, TableConfig, Tier
from upcycle.experience import kernels
from upcycle.experience.chunks import Array, Chunk, ChunkSpec, decode_chunk

_EXPONENT: Final = 0.4  # importance sampling
_TIMEOUT_SECONDS: Final = 60.0
PACED_SECONDS: Final = 0.5
"""How long a limiter may hold a call back before it gives up, so that a window ends although the other side has."""
_CHUNKS_PER_INSERT: Final = 16  # 1,024 steps
_COPY_ARRAY_BYTES: Final = 1_400_000_000  # far beyond every cache
_FRAME_BYTES: Final = 84 * 84


class Writer:
    """Inserts chunks over and over, as one actor would; every insert is acknowledged.

    Args:
      compressed: compress frames, if this build's actors can.
    """

    def __init__(self, client: ShardedReplay, spec: ChunkSpec, chunks: Sequence[Chunk], *, compressed: bool) -> None:
        self._client, self._spec, self._compressed = client, spec, compressed
        self._chunks = itertools.cycle(chunks)
        self._writer_id, self._sequence = uuid.uuid4().hex, 0
        self._held_back = list[Chunk]()

    def fill(self, transitions: int) -> int:
        """Inserts at least so many transitions and returns how many they were."""
        inserted = 0
        while inserted < transitions:
            inserted += self.insert_next()
        return inserted

    def insert_next(self) -> int:
        """Encodes and inserts the next chunks in one call; returns their transitions."""
        chunks = list(itertools.islice(self._chunks, _CHUNKS_PER_INSERT))
        self.insert(chunks)
        return sum(chunk.num_transitions(self._spec) for chunk in chunks)

    def next_chunk(self) -> Chunk:
        """The next one."""
        return next(self._chunks)

    @contextmanager
    def sending(self) -> Generator[tuple[Callable[[Chunk], int], Callable[[], None]]]:
        """A function that encodes a chunk and hands it to an actor's sender, and one that waits until all are in."""
        sender = ChunkSender(self._client, table=TABLE, capacity=_CHUNKS_PER_INSERT)

        def put(chunk: Chunk) -> int:
            if not sender.put(encoded(chunk, self._spec, compressed=self._compressed), _TIMEOUT_SECONDS):
                raise TimeoutError("replay takes no chunks")
            return chunk.num_transitions(self._spec)

        def finish() -> None:
            if not sender.close(_TIMEOUT_SECONDS):
                raise TimeoutError("chunks had to be given up")

        try:
            yield put, finish
        finally:
            sender.close(_TIMEOUT_SECONDS)

    def insert_paced(self) -> int:
        """Inserts one chunk where a limiter may hold it back; then 0, and the same one is next again."""
        chunks = self._held_back or [next(self._chunks)]
        try:
            self.insert(chunks, timeout_seconds=PACED_SECONDS)
        except ReplayTimeout:
            self._held_back = chunks
            return 0
        self._held_back = []
        return sum(chunk.num_transitions(self._spec) for chunk in chunks)

    def insert(self, chunks: Sequence[Chunk], *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Encodes and inserts these chunks."""
        data = [encoded(chunk, self._spec, compressed=self._compressed) for chunk in chunks]
        self._client.insert(
            TABLE,
            data,
            writer_id=self._writer_id,
            first_sequence=self._sequence,
            timeout_seconds=timeout_seconds,
        )
        self._sequence += len(data)


def fill(cluster: Cluster, chunks: Sequence[Chunk], transitions: int, *, compressed: bool) -> None:
    """Inserts at least so many transitions through a client of its own."""
    with closing(cluster.open_client("auto")) as client:
        Writer(client, cluster.spec, chunks, compressed=compressed).fill(transitions)


def counted_bytes_per_item(tier: Tier, spec: ChunkSpec, chunks: Sequence[Chunk], *, stored: int) -> float:
    """Memory of a full table by transition, as the table counts it: chunks, columns, priorities and their index.

    The memory of a process would tell of its heap instead: it moves by tens of megabytes, more than a cold table takes.
    """
    config = TableConfig(
        TABLE,
        stored,
        sampler="proportional",
        priority_exponent=PRIORITY_EXPONENT,
        tier=tier,
        cold_cache_bytes=0,  # a cache has a size of its own, whatever the table holds
    )
    table, inserted = Table(config, spec, rng=np.random.default_rng(0)), 0
    arrived = [decode_chunk(encoded(chunk, spec, compressed=tier != "raw"), spec) for chunk in chunks]
    for sequence, chunk in enumerate(itertools.cycle(arrived)):
        if inserted >= stored:
            break
        table.insert(chunk, writer_id="counted", sequence=sequence)
        inserted += chunk.num_transitions(spec)
    return table.memory_bytes / table.stats().num_transitions


def inserting(writer: Writer, servers: Sequence[int]) -> Window:
    """Chunks that exist already: encoded, and sent from a thread beside that; the last acknowledgement counts."""

    def window(seconds: float) -> Rate:
        with writer.sending() as (put, finish):
            return timed(lambda: put(writer.next_chunk()), seconds=seconds, servers=servers, finish=finish)

    return window


def acting(writer: Writer, spec: ChunkSpec, play: Play, servers: Sequence[int]) -> Window:
    """All that replay costs an actor: rows of several lanes into chunks, encoded, sent, acknowledged."""
    from actors.chunk_writer import ChunkWriter

    steps = lane_rows(play)
    cut, upcoming = ChunkWriter(spec, len(steps[0][1])), itertools.cycle(steps)

    def window(seconds: float) -> Rate:
        with writer.sending() as (put, finish):

            def step() -> int:
                rows, action = next(upcoming)
                for chunk in cut.push(rows, action):
                    put(chunk)
                return len(action)

            return timed(step, seconds=seconds, servers=servers, finish=finish)

    return window


def sampling(
    client: ShardedReplay, servers: Sequence[int], *, batch_size: int, batches_per_request: int, in_flight: int
) -> Window:
    """Prioritised batches, with their windows in the learner's memory, which is used again and again as it would.

    Args:
      batches_per_request: drawn together, as the learner does.
      in_flight: threads that do the same side by side.
    """
    steps = [sampler(client, batch_size, batches_per_request) for _ in range(in_flight)]
    return lambda seconds: timed(*steps, seconds=seconds, servers=servers)


def updating(
    client: ShardedReplay, servers: Sequence[int], *, batch_size: int, batches_per_request: int, seed: int = 0
) -> Window:
    """New priorities for transitions drawn just before the window."""
    rng = np.random.default_rng(seed)

    def window(seconds: float) -> Rate:
        size = batch_size * batches_per_request
        keys = [draw(client, size).keys for _ in range(8)]
        # One more than there are batches of keys, so that no key gets the same priority twice in a row.
        priorities = [np.exp(rng.normal(-2.0, 1.0, size)) for _ in range(len(keys) + 1)]
        upcoming = zip(itertools.cycle(keys), itertools.cycle(priorities), strict=False)

        def step() -> int:
            client.update_priorities(TABLE, *next(upcoming))
            return size

        return timed(step, seconds=seconds, servers=servers)

    return window


def copying(*, batch_size: int, num_batches: int, seed: int = 0) -> Window:
    """The limit: windows copied at random out of an array that is in memory, on one core, with nothing around it.

    The copy is the quickest that we know, into as many batches in turn as sampling fills.
    """
    rng = np.random.default_rng(seed)
    frames = np.empty(_COPY_ARRAY_BYTES // _FRAME_BYTES * _FRAME_BYTES, np.uint8)
    frames[:] = rng.integers(256, size=len(frames), dtype=np.uint8)  # every page is there before it is read
    batches = [np.zeros((batch_size, WINDOW_FRAMES * _FRAME_BYTES), np.uint8) for _ in range(num_batches)]
    upcoming = itertools.cycle(batches)

    def step() -> int:
        starts = rng.integers(len(frames) // _FRAME_BYTES - WINDOW_FRAMES, size=batch_size)
        kernels.copy_pieces(frames, starts * _FRAME_BYTES, next(upcoming))
        return batch_size

    return lambda seconds: timed(step, seconds=seconds)


def draw(client: ShardedReplay, batch_size: int) -> SampledBatch:
    """One batch, however it comes."""
    return client.sample(
        SampleRequest(
            tables=TABLE,
            batch_size=batch_size,
            view=VIEW,
            importance_sampling_exponent=_EXPONENT,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
    )[0]


def prepared(play: Play) -> tuple[ChunkSpec, list[Chunk]]:
    """Specification and chunks of a play."""
    spec = play.spec()
    return spec, chunks_of(play, spec)


def sampler(client: ShardedReplay, batch_size: int, num_batches: int) -> Callable[[], int]:
    """A step that draws `num_batches` batches in one request."""
    drawn = _drawer(client, batch_size, num_batches, timeout_seconds=_TIMEOUT_SECONDS)
    return lambda: sum(len(batch.probabilities) for batch in drawn())


def paced_sampler(
    client: ShardedReplay, batch_size: int, num_batches: int, *, update: bool = False
) -> Callable[[], int]:
    """Like `sampler` where a limiter may hold it back; then a step gives 0.

    Args:
      update: give every sampled transition a new priority, as a learner does.
    """
    drawn = _drawer(client, batch_size, num_batches, timeout_seconds=PACED_SECONDS)
    rng = np.random.default_rng(0)

    def step() -> int:
        try:
            batches = drawn()
        except ReplayTimeout:
            return 0
        for batch in batches if update else ():
            client.update_priorities(TABLE, batch.keys, np.exp(rng.normal(-2.0, 1.0, len(batch.probabilities))))
        return sum(len(batch.probabilities) for batch in batches)

    return step


def _drawer(
    client: ShardedReplay, batch_size: int, num_batches: int, *, timeout_seconds: float
) -> Callable[[], list[SampledBatch]]:
    memory = dict[tuple[tuple[int, ...], str], "itertools.cycle[Array]"]()

    def allocate(shape: tuple[int, ...], dtype: str) -> Array:
        if (shape, dtype) not in memory:
            memory[shape, dtype] = itertools.cycle([np.zeros(shape, dtype) for _ in range(num_batches)])
        return next(memory[shape, dtype])

    return lambda: client.sample(
        SampleRequest(
            tables=TABLE,
            batch_size=batch_size,
            num_batches=num_batches,
            view=VIEW,
            importance_sampling_exponent=_EXPONENT,
            timeout_seconds=timeout_seconds,
            allocate=allocate,
        )
    )
