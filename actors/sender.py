"""Sends chunks to the replay service from a thread of its own, so that acting does not wait."""

import queue
import threading
import uuid
from collections.abc import Sequence
from typing import Final, Protocol

from replay_service.table.types import ReplayTimeout

_POLL_SECONDS: Final = 0.1


class ChunkSink(Protocol):
    """The method of `ShardedReplay` that a sender calls."""

    def insert(
        self, table: str, chunks: Sequence[bytes], /, *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        """Returns once every chunk is in the table; after a ReplayTimeout the same call is safe to repeat."""
        ...


class ChunkSender:
    """Sends encoded chunks in order, each exactly once, however often an insert must be repeated.

    Args:
      replay: where the chunks go.
      table: to insert into.
      capacity: of the queue, beyond which `put` waits; as many chunks again may be in flight.
      timeout_seconds: of one attempt.
    Attributes:
      last_timeout: why the newest attempt timed out; None if it succeeded.
    """

    def __init__(self, replay: ChunkSink, *, table: str, capacity: int, timeout_seconds: float = 5.0) -> None:
        self.writer_id = uuid.uuid4().hex
        self._replay, self._table, self._timeout_seconds = replay, table, timeout_seconds
        self._queue: queue.Queue[bytes] = queue.Queue(capacity)
        self._closing, self._abandoned = threading.Event(), threading.Event()
        self._complete = False
        self._error: Exception | None = None
        self.last_timeout: ReplayTimeout | None = None
        self._thread = threading.Thread(target=self._run, name="chunk-sender", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes, timeout_seconds: float) -> bool:
        """Queues one encoded chunk; False if the queue stayed full.

        Raises: the error that ended sending for good, which a ReplayTimeout does not.
        """
        if self._error is not None:
            raise self._error
        try:
            self._queue.put(chunk, timeout=timeout_seconds)
        except queue.Full:
            return False
        return True

    def close(self, timeout_seconds: float) -> bool:
        """Sends the queued chunks, for at most `timeout_seconds`, and joins the thread.

        Returns: False if chunks had to be dropped.
        """
        self._closing.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        self._thread.join(self._timeout_seconds + 1.0)  # the attempt in flight
        return self._complete

    def _run(self) -> None:
        try:
            self._complete = self._send_all()
        except Exception as error:
            self._error = error  # raised in the acting thread, by `put`

    def _send_all(self) -> bool:
        """Sends until the sender is closed and its queue is empty; False if it was abandoned first."""
        sequence = 0
        while chunks := self._take():
            while not self._insert(chunks, sequence):
                if self._abandoned.is_set():
                    return False
            sequence += len(chunks)
        return True

    def _take(self) -> list[bytes]:
        """All queued chunks, after waiting for the first; none once the sender is closed and the queue is empty."""
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
        """One attempt, safe to repeat: replay recognises chunks by writer and sequence number."""
        try:
            self._replay.insert(
                self._table,
                chunks,
                writer_id=self.writer_id,
                first_sequence=sequence,
                timeout_seconds=self._timeout_seconds,
            )
        except ReplayTimeout as timeout:
            self.last_timeout = timeout
            return False
        self.last_timeout = None
        return True
