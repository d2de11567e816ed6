"""Chunks out to the replay service, from a thread of its own so that acting goes on meanwhile."""

import queue
import threading
import uuid
from collections.abc import Sequence
from typing import Final, Protocol

from replay_service.table.types import ReplayTimeout

_POLL_SECONDS: Final = 0.1


class Inserts(Protocol):
    """The part of `replay_service.client.sharded_replay.ShardedReplay` that is needed here."""

    def insert(
        self, table: str, chunks: Sequence[bytes], /, *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        """Returns once every chunk is in the table; after a ReplayTimeout the same call may be repeated."""
        ...


class ChunkSender:
    """Sends encoded chunks in order; each is in the table once, however often its insert had to be repeated.

    Args:
      replay: where to.
      table: into which table.
      capacity: chunks that may wait here (as many again may be under way); with more, `put` waits.
      timeout_seconds: of one attempt.
    Attributes:
      held_back: why the newest attempt came to nothing; None after one that did not.
    """

    def __init__(self, replay: Inserts, *, table: str, capacity: int, timeout_seconds: float = 5.0) -> None:
        self.writer_id = uuid.uuid4().hex
        self._replay, self._table, self._timeout_seconds = replay, table, timeout_seconds
        self._queue: queue.Queue[bytes] = queue.Queue(capacity)
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._complete = False
        self._error: Exception | None = None
        self.held_back: ReplayTimeout | None = None
        self._thread = threading.Thread(target=self._run, name="chunk-sender", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes, timeout_seconds: float) -> bool:
        """Hands over one encoded chunk; False if there was no room for it in time.

        Raises: whatever ended the sending for good; a ReplayTimeout does not.
        """
        if self._error is not None:
            raise self._error
        try:
            self._queue.put(chunk, timeout=timeout_seconds)
        except queue.Full:
            return False
        return True

    def close(self, timeout_seconds: float) -> bool:
        """Sends what waits, for so long at the most, and joins the thread.

        Returns: False if chunks had to be given up.
        """
        self._closing.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        self._thread.join(self._timeout_seconds + 1.0)  # the attempt under way
        return self._complete

    def _run(self) -> None:
        try:
            self._complete = self._send_all()
        except Exception as error:
            self._error = error  # raised in the acting thread, by `put`

    def _send_all(self) -> bool:
        """Sends until the sender is closed and nothing waits; False if it was abandoned before."""
        sequence = 0
        while chunks := self._take():
            while not self._insert(chunks, sequence):
                if self._abandoned.is_set():
                    return False
            sequence += len(chunks)
        return True

    def _take(self) -> list[bytes]:
        """All chunks that wait, after waiting for the first; none once the sender is closed and everything is sent."""
        while True:
            try:
                chunks = [self._queue.get(timeout=_POLL_SECONDS)]
                break
            except queue.Empty:
                if self._closing.is_set():
                    return []
        while not self._queue.empty():
            chunks.append(self._queue.get_nowait())  # there is no other consumer
        return chunks

    def _insert(self, chunks: Sequence[bytes], sequence: int) -> bool:
        """One attempt, safe to repeat: replay knows chunks by writer and sequence number."""
        try:
            self._replay.insert(
                self._table,
                chunks,
                writer_id=self.writer_id,
                first_sequence=sequence,
                timeout_seconds=self._timeout_seconds,
            )
        except ReplayTimeout as timeout:
            self.held_back = timeout
            return False
        self.held_back = None
        return True
