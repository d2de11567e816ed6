"""Chunks into whichever shard takes them, each of them once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from replay_service.client import ShardClient
from replay_service.failures import ShardSlow, ShardUnavailable
from replay_service.membership import CALL_SECONDS, Membership, seconds_left
from replay_service.options import MAX_BULK_BYTES, MAX_MESSAGE_BYTES
from replay_service.types import ReplayTimeout
from upcycle.errors import UserError

_WAIT_SECONDS: Final = 0.2  # the longest a shard is asked to hold a call back; then the others get their turn
_PAUSE_SECONDS: Final = 0.02
_MAX_UNFINISHED: Final = 1024


class ChunkInserter:
    """Inserts into the shards that `members` knows, by turns. Thread-safe.

    Args:
      first_turn: which shard is first; give every client another, so that writers spread.
    """

    def __init__(self, members: Membership, *, first_turn: int) -> None:
        self._members, self._turn = members, first_turn
        self._lock = threading.Lock()  # guards _turn and _unfinished
        # (table, writer, first sequence) of an insert that timed out -> chunks inserted, shard that may have more of it
        self._unfinished: OrderedDict[tuple[str, str, int], tuple[int, int | None]] = OrderedDict()

    def insert(
        self, table: str, chunks: Sequence[bytes], *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        """See `ShardedReplay.insert`."""
        _check_sizes(chunks)
        deadline = time.monotonic() + timeout_seconds
        key = (table, writer_id, first_sequence)
        with self._lock:
            num_done, holder = self._unfinished.pop(key, (0, None))
        wait_seconds = 0.0  # At first, to see whether any shard has room.
        while num_done < len(chunks):
            try:
                shards = self._in_turn(table, holder)
            except UserError:  # What has been inserted must not be again, should the caller try once more.
                self._remember(key, num_done, holder)
                raise
            num_new, holder = self._try_each(
                table, chunks[num_done:], writer_id, first_sequence + num_done, wait_seconds, shards
            )
            num_done += num_new
            if num_done < len(chunks) and time.monotonic() >= deadline:
                self._remember(key, num_done, holder)
                total, seconds = len(chunks), timeout_seconds
                raise ReplayTimeout(f"table {table!r}: {num_done} of {total} chunks inserted in {seconds} s")
            if num_new:
                continue
            wait_seconds = min(_WAIT_SECONDS, seconds_left(deadline))
            self._members.wait(min(_PAUSE_SECONDS, seconds_left(deadline)))

    def _try_each(
        self,
        table: str,
        chunks: Sequence[bytes],
        writer_id: str,
        first_sequence: int,
        wait_seconds: float,
        shards: Sequence[tuple[int, ShardClient]],
    ) -> tuple[int, int | None]:
        """One round over shards. Returns how many chunks were inserted, and the shard that may hold the next."""
        num_done = 0
        for index, client in shards:
            if num_done == len(chunks):
                break
            try:
                accepted, stats = client.insert(
                    table,
                    _bulk(chunks, num_done),
                    writer_id=writer_id,
                    first_sequence=first_sequence + num_done,
                    max_priority=self._members.max_priority(table),
                    wait_seconds=wait_seconds,
                    timeout_seconds=wait_seconds + CALL_SECONDS,
                )
            except ShardUnavailable:
                self._members.lost(index, client)
                continue
            except ShardSlow:
                return num_done, index  # It may have taken them: as long as it lives, no other shard may.
            self._members.observe(index, client, table, stats)
            num_done += accepted
        return num_done, None

    def _in_turn(self, table: str, holder: int | None) -> list[tuple[int, ShardClient]]:
        """Live shards that take chunks, beginning with another one at each call; the holder alone as long as it lives.

        The holder is asked though it may drain: it acknowledges what it has taken already. Raises: UserError if all
        shards drain.
        """
        live = self._members.live()
        if holder is not None and holder in live:
            return [(holder, live[holder])]
        taking = list(self._members.taking(table).items())
        with self._lock:
            self._turn += 1
            first = self._turn % len(taking) if taking else 0
        return taking[first:] + taking[:first]

    def _remember(self, key: tuple[str, str, int], num_done: int, holder: int | None) -> None:
        with self._lock:
            self._unfinished[key] = (num_done, holder)
            if len(self._unfinished) > _MAX_UNFINISHED:
                self._unfinished.popitem(last=False)


def _check_sizes(chunks: Sequence[bytes]) -> None:
    largest = max(map(len, chunks), default=0)
    if largest > MAX_MESSAGE_BYTES - 4096:
        raise UserError(
            "replay.chunk_steps",
            f"{largest} bytes a chunk",
            f"is more than a message of {MAX_MESSAGE_BYTES} bytes can carry",
            "lower replay.chunk_steps or env.frame_size",
        )


def _bulk(chunks: Sequence[bytes], begin: int) -> list[bytes]:
    """The next chunks that one call carries: at least one, and no more than a bulk's bytes."""
    bulk, num_bytes = [chunks[begin]], len(chunks[begin])
    for data in chunks[begin + 1 :]:
        num_bytes += len(data)
        if num_bytes > MAX_BULK_BYTES:
            break
        bulk.append(data)
    return bulk
