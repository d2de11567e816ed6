import threading
from collections.abc import Sequence

import pytest

from actors.sender import ChunkSender
from replay_service.table.types import ReplayTimeout
from upcycle.errors import UserError


class Table:
    """Takes chunks when it is open, and remembers them by sequence number."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.attempted = threading.Event()
        self.stored: dict[int, bytes] = {}
        self.attempts: list[tuple[str, str, int, int]] = []

    def insert(
        self, table: str, chunks: Sequence[bytes], /, *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        self.attempts.append((table, writer_id, first_sequence, len(chunks)))
        self.attempted.set()
        if chunks[0] == b"bad":
            raise UserError("chunk", "bad", "is refused", "send another")
        if not self.open.wait(timeout_seconds):
            raise ReplayTimeout("not now")
        self.stored.update(enumerate(chunks, first_sequence))


def fill(sender: ChunkSender) -> None:
    for _ in range(100):
        sender.put(b"good", 0.1)


def test_chunks_arrive_in_order_and_numbered() -> None:
    table = Table()
    table.open.set()
    sender = ChunkSender(table, table="online", capacity=3)
    for i in range(10):
        assert sender.put(bytes([i]), 10)
    assert sender.close(10)
    assert table.stored == {i: bytes([i]) for i in range(10)}
    assert {(name, writer) for name, writer, _, _ in table.attempts} == {("online", sender.writer_id)}


def test_a_full_queue_makes_put_wait_and_an_insert_is_repeated_as_it_was() -> None:
    table = Table()
    sender = ChunkSender(table, table="online", capacity=2, timeout_seconds=0.05)
    assert sender.put(b"0", 10)
    assert table.attempted.wait(10)  # the first chunk is under way; two more may wait
    assert sender.put(b"1", 10)
    assert sender.put(b"2", 10)
    assert not sender.put(b"3", 0.2)
    table.open.set()
    assert sender.put(b"3", 10)
    assert sender.close(10)
    assert table.stored == {i: str(i).encode() for i in range(4)}
    assert table.attempts[:2] == [("online", sender.writer_id, 0, 1)] * 2


def test_closing_gives_up_what_nobody_takes() -> None:
    table = Table()
    sender = ChunkSender(table, table="online", capacity=4, timeout_seconds=0.05)
    assert sender.put(b"0", 10)
    assert not sender.close(0.2)
    assert table.stored == {}


def test_what_cannot_be_repeated_is_raised_where_the_chunks_come_from() -> None:
    table = Table()
    sender = ChunkSender(table, table="online", capacity=1)
    assert sender.put(b"bad", 10)
    with pytest.raises(UserError, match="is refused"):
        fill(sender)
    assert not sender.close(10)
    assert len(table.attempts) == 1


def test_writers_are_never_mistaken_for_one_another() -> None:
    senders = [ChunkSender(Table(), table="online", capacity=1) for _ in range(3)]
    assert len({sender.writer_id for sender in senders}) == 3
    assert all(sender.close(10) for sender in senders)
