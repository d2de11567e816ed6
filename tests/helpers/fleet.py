"""A fleet of shards, writers and learners in pure Python: real accounts, turns and weights, no threads, no network."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from replay_service.client.turns import Turns, weights
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import TableStats, total_stats

STEPS = 64  # of a whole chunk


@dataclass(slots=True)
class Shard:
    """A table of so many slots: its account, and of each chunk in it the size and when it came (None: it was seeded).

    Attributes:
      num_came: transitions that have been inserted, over all its lives.
    """

    num_slots: int
    flow: Flow
    slots: deque[tuple[int, int | None]] = field(default_factory=deque[tuple[int, int | None]])
    num_came: int = 0

    def stats(self) -> TableStats:
        return TableStats(self.flow, capacity_steps=self.num_slots * STEPS, num_chunks=len(self.slots))

    def insert(self, size: int, now: int) -> bool:
        if not self.flow.may_insert(size):
            return False
        self._store(size, now)
        self.flow = self.flow.after_insert(size)
        self.num_came += size
        return True

    def seed(self, size: int) -> None:
        self._store(size, None)
        self.flow = self.flow.after_seed(size)

    def _store(self, size: int, now: int | None) -> None:
        if len(self.slots) == self.num_slots:
            self.flow = self.flow.after_eviction(self.slots.popleft()[0])
        self.slots.append((size, now))
        if len(self.slots) == self.num_slots:
            self.flow = replace(self.flow, min_size_to_sample=0)

    def admit(self, num_samples: int) -> int:
        room = self.flow.room_for_samples(num_samples)
        self.flow = self.flow.after_sample(room)
        return room

    def check(self) -> None:
        assert abs(self.flow.surplus) <= self.flow.error_buffer_steps + 1e-9
        assert self.flow.num_transitions == sum(size for size, _ in self.slots)


@dataclass(slots=True)
class Client:
    """What a writer or a learner knows: its turns, and the counters that came with the newest answers."""

    turns: Turns
    known: dict[int, TableStats] = field(default_factory=dict[int, TableStats])
    held: int = 0  # samples admitted for the batch to come


class Fleet:
    """Shards with writers and learners that look at them by turns, in an order of chance.

    Args:
      min_size, error_buffer: of each shard.
      whole_chunks: every chunk is of the same size, so that a request may be exactly a chunk's worth.
    """

    def __init__(
        self,
        num_shards: int,
        *,
        num_writers: int = 4,
        num_learners: int = 1,
        num_slots: int = 60,
        samples_per_insert: float = 8.0,
        error_buffer: int = 250,
        min_size: int = 128,
        request: int = 512,
        whole_chunks: bool = True,
        seed: int = 0,
    ) -> None:
        self.num_slots, self.request, self.whole_chunks = num_slots, request, whole_chunks
        self.rng, self.now = np.random.default_rng(seed), 0
        self.account = Flow(samples_per_insert, error_buffer, min_size)
        self.shards = {index: self.new_shard() for index in range(num_shards)}
        self.writers = [Client(Turns(int(self.rng.integers(1 << 16)))) for _ in range(num_writers)]
        self.learners = [Client(Turns(int(self.rng.integers(1 << 16)))) for _ in range(num_learners)]
        self.num_batches = 0

    def new_shard(self, *, joins: bool = False) -> Shard:
        return Shard(self.num_slots, replace(self.account, min_size_to_sample=0) if joins else self.account)

    def run(self, ticks: int, *, writing: float = 1.0, learning: float = 1.0) -> None:
        """In each tick each client acts once, with these probabilities, in an order of chance."""
        for _ in range(ticks):
            self.now += 1
            clients = [*self.writers, *self.learners]
            order: list[int] = self.rng.permutation(len(clients)).tolist()
            for number in order:
                is_writer = number < len(self.writers)
                if self.rng.random() < (writing if is_writer else learning):
                    (self._write if is_writer else self._learn)(clients[number])
            if self.now % 50 == 0:
                for shard in self.shards.values():
                    shard.check()

    def _write(self, client: Client) -> None:
        size = STEPS if self.whole_chunks else int(self.rng.integers(1, STEPS + 1))
        taking = {index: client.known.get(index) for index, shard in self.shards.items() if not shard.flow.draining}
        for index in client.turns.order(weights(taking, STEPS)):
            came = self.shards[index].insert(size, self.now)
            client.known[index] = self.shards[index].stats()
            if came:
                client.turns.give(index, 1, weights(taking, STEPS))
                break

    def _learn(self, client: Client) -> None:
        live: Mapping[int, TableStats] = {index: shard.stats() for index, shard in self.shards.items()}
        if not total_stats(live).flow.is_filled:
            return
        # What it knows is as old as its last batch, or of its last call.
        known = {index: client.known.get(index, live[index]) for index in live}
        order = client.turns.order(weights(known, STEPS))
        for index in sorted(order, key=lambda index: known[index].flow.room_for_samples(1) == 0):
            if client.held < self.request:
                admitted = self.shards[index].admit(self.request - client.held)
                client.held += admitted
                if admitted:
                    client.turns.give(index, admitted, weights(known, STEPS))
        if client.held == self.request:
            client.held, self.num_batches = 0, self.num_batches + 1
        client.known = {index: shard.stats() for index, shard in self.shards.items()}

    def came(self) -> dict[int, int]:
        return {index: shard.num_came for index, shard in self.shards.items()}

    def oldest(self) -> dict[int, int]:
        """Age of the oldest chunk of each shard that has one, of those that were inserted."""
        times = {index: [at for _, at in shard.slots if at is not None] for index, shard in self.shards.items()}
        return {index: self.now - at[0] for index, at in times.items() if at}


def spread(values: Mapping[int, float]) -> float:
    """By how much the largest exceeds the least, as a part of their mean."""
    numbers = list(values.values())
    return (max(numbers) - min(numbers)) / (sum(numbers) / len(numbers))
