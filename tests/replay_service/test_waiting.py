"""Waiting lines: in order, one at a time, and nobody is woken in vain."""

import threading
import time
from collections.abc import Callable

from replay_service.served_table import ServedTable
from replay_service.shared_log import EncodedChunk
from replay_service.size_gauge import SizeGauge
from replay_service.table import Table
from replay_service.waiting import WaitingLine
from tests.replay_service.chunk_factory import SPEC, make_chunk, make_data, table_config
from tests.replay_service.test_inspection import make_table
from upcycle.metrics import Metrics

WAIT_SECONDS = 30.0


class Room:
    """So many units, each of which one call takes."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.line = WaitingLine(self.lock)
        self.units, self.num_looks = 0, 0

    def has_room(self) -> bool:
        self.num_looks += 1
        return self.units > 0

    def take(self, timeout_seconds: float = WAIT_SECONDS) -> bool:
        with self.line.turn(self.has_room, timeout_seconds) as came:
            if came:
                with self.lock:
                    assert self.units > 0, "called without room"
                    self.units -= 1
            return came

    def give(self, units: int) -> None:
        with self.lock:
            self.units += units
            self.line.call_next()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def length(room: Room) -> int:
    with room.lock:
        return len(room.line)


def test_calls_come_in_order_of_arrival_and_only_when_there_is_room() -> None:
    room, order, threads = Room(), list[int](), list[threading.Thread]()

    def wait(number: int) -> None:
        assert room.take()
        order.append(number)

    for number in range(12):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        wait_until(lambda expected=number + 1: length(room) == expected)
    assert room.line.num_called == 0
    looks = room.num_looks
    for number in range(6):
        room.give(1)
        wait_until(lambda expected=number + 1: len(order) == expected)
    wait_until(lambda: length(room) == 6)
    # Six units, six turns; and each of them looked once when room came, once more after its own was taken.
    assert (room.line.num_called, order) == (6, list(range(6)))
    assert room.num_looks - looks <= 2 * 6
    room.give(6)  # one call makes room for all that are left: each calls the next
    for thread in threads:
        thread.join()
    assert (room.line.num_called, sorted(order), room.units) == (12, list(range(12)), 0)


def test_a_call_that_has_given_up_leaves_its_turn_to_the_next() -> None:
    room, results = Room(), list[bool]()
    first = threading.Thread(target=lambda: results.append(room.take(0.05)))
    first.start()
    wait_until(lambda: length(room) == 1)
    second = threading.Thread(target=lambda: results.append(room.take()))
    second.start()
    first.join()
    assert results == [False]
    room.give(1)
    second.join()
    assert results == [False, True]


def test_a_closed_line_ends_all_waits_now_and_later() -> None:
    room, results = Room(), list[bool]()
    threads = [threading.Thread(target=lambda: results.append(room.take())) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: length(room) == 4)
    with room.lock:
        room.line.close()
    for thread in threads:
        thread.join()
    room.give(9)
    assert [*results, room.take()] == [False] * 5


def served(table: Table) -> ServedTable:
    metrics = Metrics("replay", "test")
    return ServedTable(table, log=None, metrics=metrics, size=SizeGauge(metrics), max_waiters=64)


def test_a_crowd_of_inserts_is_woken_once_for_each_that_gets_in() -> None:
    """32 inserts wait; room for one at a time comes, as samples are admitted: 32 wake-ups, not 32 x 32."""
    config = table_config(capacity_steps=4000, samples_per_insert=1.0, error_buffer_steps=8, min_size_to_sample=8)
    table, num_inserts = served(make_table(config)), 32

    stored = list[int]()

    def insert(number: int) -> None:
        encoded = EncodedChunk(make_data(number), make_chunk(number), SPEC.steps)
        stored.append(table.insert([encoded], writer_id="w", first_sequence=number, wait_seconds=WAIT_SECONDS)[0])

    for number in (1000, 1001):  # one is free, one fills the buffer
        insert(number)
    threads = [threading.Thread(target=insert, args=(number,)) for number in range(num_inserts)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(table.waiting_inserts) == num_inserts)
    for number in range(num_inserts):
        assert table.admit(SPEC.steps, wait_seconds=0.0)[0] == SPEC.steps
        wait_until(lambda expected=number + 3: len(stored) == expected)
    for thread in threads:
        thread.join()
    assert stored == [1] * (2 + num_inserts)
    assert table.waiting_inserts.num_called == num_inserts
    assert abs(table.stats().flow.surplus) <= 8


def test_an_insert_that_arrives_does_not_overtake_those_that_wait() -> None:
    config = table_config(capacity_steps=400, samples_per_insert=1.0, error_buffer_steps=8, min_size_to_sample=8)
    table = served(make_table(config))

    def insert(number: int, wait_seconds: float = 0.0, num_transitions: int = SPEC.steps) -> int:
        encoded = EncodedChunk(make_data(number), make_chunk(number), num_transitions)
        return table.insert([encoded], writer_id="w", first_sequence=number, wait_seconds=wait_seconds)[0]

    assert [insert(0), insert(1), insert(2)] == [1, 1, 0]
    waiting = threading.Thread(target=insert, args=(2, WAIT_SECONDS))
    waiting.start()
    wait_until(lambda: len(table.waiting_inserts) == 1)
    assert table.admit(4, wait_seconds=0.0)[0] == 4
    assert insert(3, num_transitions=1) == 0  # there would be room for so few, but another one was here before
    assert insert(1) == 1  # a repeated one needs no room
    assert table.admit(4, wait_seconds=0.0)[0] == 4
    waiting.join()
    assert table.stats().num_chunks == 3
