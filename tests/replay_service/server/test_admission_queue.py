"""Waiting lines: in order, one at a time, and nobody is woken in vain."""

import threading
import time
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from replay_service.server.admission_queue import WaitingLine
from replay_service.server.log_sink import EncodedChunk
from replay_service.server.reservations import Reservations
from replay_service.server.served_table import ServedTable
from replay_service.server.size_gauge import SizeGauge
from replay_service.table.table import Table
from tests.helpers.chunk_factory import SPEC, make_chunk, make_data, table_config
from tests.replay_service.wire.test_inspection import make_table
from upcycle.runs.metrics import Metrics

WAIT_SECONDS = 120.0


class Room:
    """So many units, each of which one call takes."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.line = WaitingLine(self.lock)
        self.units, self.num_looks = 0, 0

    def has_room(self) -> bool:
        self.num_looks += 1
        return self.units > 0

    def take(self, timeout_seconds: float = WAIT_SECONDS, *, arrival: float = 0.0) -> bool:
        with self.line.turn(self.has_room, timeout_seconds, arrival=arrival) as came:
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


def test_who_has_waited_longer_elsewhere_comes_first() -> None:
    room, order, threads = Room(), list[float](), list[threading.Thread]()

    def wait(arrival: float) -> None:
        assert room.take(arrival=arrival)
        order.append(arrival)

    arrivals = [5.0, 3.0, 9.0, 1.0, 4.0]
    for number, arrival in enumerate(arrivals):
        threads.append(threading.Thread(target=wait, args=(arrival,)))
        threads[-1].start()
        wait_until(lambda expected=number + 1: length(room) == expected)
    for number in range(len(arrivals)):
        room.give(1)
        wait_until(lambda expected=number + 1: len(order) == expected)
    for thread in threads:
        thread.join()
    assert order == sorted(arrivals)


def test_nobody_comes_before_a_call_whose_turn_it_is() -> None:
    room = Room()
    with room.line.turn(room.has_room, 0.0, arrival=5.0) as came:
        assert not came
        room.give(1)
        with room.line.turn(room.has_room, 0.0, arrival=1.0) as other:
            assert not other
    assert (room.line.num_called, room.take()) == (1, True)


def served(table: Table) -> ServedTable:
    metrics = Metrics("replay", "test")
    size = SizeGauge(metrics)
    return ServedTable(table, log=None, metrics=metrics, size=size, max_writers=64, max_readers=16)


def insert(table: ServedTable, number: int, *, writer_id: str = "w", num_transitions: int = SPEC.steps) -> int:
    encoded = EncodedChunk(make_data(number), make_chunk(number), num_transitions)
    return table.insert([encoded], writer_id=writer_id, first_sequence=number)[0]


def reserve(table: ServedTable, writer_id: str, wait_seconds: float = WAIT_SECONDS, waited_seconds: float = 0.0) -> int:
    return table.reserve(1, writer_id=writer_id, wait_seconds=wait_seconds, waited_seconds=waited_seconds)[0]


def full_table() -> ServedTable:
    """One chunk was free, one fills the buffer."""
    config = table_config(capacity_steps=4000, samples_per_insert=1.0, error_buffer_steps=8, min_size_to_sample=8)
    table = served(make_table(config))
    assert [insert(table, number) for number in (1000, 1001, 1002)] == [1, 1, 0]
    return table


def test_a_crowd_of_writers_is_woken_once_for_each_that_gets_in_and_served_alike() -> None:
    """32 writers of 3 chunks each; room for one at a time comes, as samples are admitted: a wake-up for each."""
    table, num_writers, rounds, stored = full_table(), 32, 3, list[str]()

    def write(writer_id: str) -> None:
        for number in range(rounds):
            assert reserve(table, writer_id) == 1
            assert insert(table, number, writer_id=writer_id) == 1
            stored.append(writer_id)

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(num_writers)]
    for thread in threads:
        thread.start()
    for number in range(rounds * num_writers):
        # All that are not done wait before there is room for the next, so that the order is that of the line.
        missing = num_writers - max(0, number - (rounds - 1) * num_writers)
        wait_until(lambda expected=missing: len(table.waiting_inserts) == expected)
        assert table.admit(SPEC.steps, wait_seconds=0.0)[0] == SPEC.steps
        wait_until(lambda expected=number + 1: len(stored) == expected)
    for thread in threads:
        thread.join()
    assert table.waiting_inserts.num_called == rounds * num_writers
    for number in range(rounds):  # nobody is served twice before everybody has been served once
        assert len(set(stored[number * num_writers : (number + 1) * num_writers])) == num_writers
    assert abs(table.stats().flow.surplus) <= 8


def test_an_insert_that_arrives_does_not_overtake_those_that_wait() -> None:
    table, granted = full_table(), list[int]()
    waiting = threading.Thread(target=lambda: granted.append(reserve(table, "w")))
    waiting.start()
    wait_until(lambda: len(table.waiting_inserts) == 1)
    assert table.admit(4, wait_seconds=0.0)[0] == 4
    # There would be room for so few, but another one was here before.
    assert insert(table, 3, writer_id="other", num_transitions=1) == 0
    assert insert(table, 1001) == 1  # a repeated one needs no room
    assert table.admit(4, wait_seconds=0.0)[0] == 4
    waiting.join()
    assert granted == [1]
    assert insert(table, 3, writer_id="other") == 0  # the room is another's
    assert insert(table, 2) == 1
    assert table.stats().num_chunks == 3


def test_room_is_promised_to_few_writers_at_a_time_and_never_twice() -> None:
    config = table_config(capacity_steps=4000, samples_per_insert=1.0, error_buffer_steps=800, min_size_to_sample=8)
    table = served(make_table(config))
    granted = [reserve(table, f"w{number}", 0.0) for number in range(20)]
    assert granted == [1] * 4 + [0] * 16
    assert insert(table, 0, writer_id="w0") == 1
    assert [reserve(table, f"w{number}", 0.0) for number in range(4, 20)] == [1] + [0] * 15
    assert reserve(table, "w1", 0.0) == 1  # who asks again gives up what it had


reservations = st.lists(
    st.tuples(st.sampled_from(["grant", "end", "look"]), st.sampled_from("abcdef"), st.integers(1, 9), st.floats(0, 3))
)


@given(reservations)
def test_reservations_hold_what_a_plain_list_of_promises_holds(steps: list[tuple[str, str, int, float]]) -> None:
    subject, promises, now = Reservations(most=3, keep_seconds=2.0), dict[str, tuple[int, float]](), 0.0
    for action, writer, number, passed in steps:
        now += passed
        promises = {name: (size, end) for name, (size, end) in promises.items() if end > now}
        assert subject.has_place(now) == (len(promises) < 3)
        if action == "grant" and (writer in promises or len(promises) < 3):
            subject.grant(writer, number, now)
            promises[writer] = (number, now + 2.0)
        if action == "end":
            subject.end(writer)
            promises.pop(writer, None)
        assert subject.num_transitions(now) == sum(size for size, _ in promises.values())
        others = sum(size for name, (size, _) in promises.items() if name != writer)
        assert subject.num_transitions(now, besides=writer) == others
        assert subject.holds(writer, now) == (writer in promises)
