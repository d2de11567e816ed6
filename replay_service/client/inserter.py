"""Chunks into whichever shard takes them, each of them once."""

import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from replay_service.client.membership import CALL_SECONDS, Membership, seconds_left
from replay_service.client.shard_client import ShardClient
from replay_service.client.turns import Turns, weights
from replay_service.table.rate_limiter import Flow
from replay_service.table.types import ReplayTimeout
from replay_service.wire.channel_options import MAX_BULK_BYTES, MAX_MESSAGE_BYTES
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UserError

_ROUND_SECONDS: Final = 0.8  # in line at all shards, one after the other, at each as long as its weight says,
_LEAST_SECONDS: Final = 0.05  # but within these bounds
_MOST_SECONDS: Final = 0.2
_ONLY_SHARD_SECONDS: Final = 1.0  # in line where there is no other
_PAUSE_SECONDS: Final = 0.1
_MAX_UNFINISHED: Final = 1024


class ChunkInserter:
    """Inserts into the shards that `members` knows, by turns. Thread-safe.

    Where a limiter has no room for chunks, room is asked for and waited for before they are sent.

    Args:
      chunk_steps: transitions of a chunk at the most.
      first_turn: which shard is first; give every client another, so that writers spread.
    """

    def __init__(self, members: Membership, *, chunk_steps: int, first_turn: int) -> None:
        self._members, self._chunk_steps = members, chunk_steps
        self._lock = threading.Lock()  # guards those below
        self._turns = defaultdict[str, Turns](lambda: Turns(first_turn))  # by table
        # (table, writer, first sequence) of an insert that timed out -> chunks inserted, shard that may have more of it
        self._unfinished: OrderedDict[tuple[str, str, int], tuple[int, int | None]] = OrderedDict()

    def insert(
        self, table: str, chunks: Sequence[bytes], *, writer_id: str, first_sequence: int, timeout_seconds: float
    ) -> None:
        """See `ShardedReplay.insert`."""
        _check_sizes(chunks)
        start = time.monotonic()
        deadline, key = start + timeout_seconds, (table, writer_id, first_sequence)
        with self._lock:
            num_done, holder = self._unfinished.pop(key, (0, None))
        first_round = True  # without a wait, to see whether any shard has room
        while num_done < len(chunks):
            try:
                shards = self._in_turn(table, holder)
            except UserError:  # What has been inserted must not be again, should the caller try once more.
                self._remember(key, num_done, holder)
                raise
            round_start, waits = time.monotonic(), self._waits(table, shards, first_round, seconds_left(deadline))
            sender = _Sender(self._members, table, writer_id, self._chunk_steps, start, waits, first_round)
            num_new, holder = self._try_each(sender, chunks[num_done:], first_sequence + num_done, shards, holder)
            num_done += num_new
            if num_done < len(chunks) and time.monotonic() >= deadline:
                self._remember(key, num_done, holder)
                raise self._timeout(table, f"{num_done} of {len(chunks)} chunks inserted in {timeout_seconds} s")
            first_round, waited = False, time.monotonic() - round_start >= max(waits.values(), default=math.inf)
            if not num_new and not waited:  # No shard is there, or too many wait there already.
                self._members.wait(min(_PAUSE_SECONDS, seconds_left(deadline)))

    def _try_each(
        self,
        sender: "_Sender",
        chunks: Sequence[bytes],
        first_sequence: int,
        shards: Sequence[tuple[int, ShardClient]],
        holder: int | None,
    ) -> tuple[int, int | None]:
        """One round over shards. Returns how many chunks were inserted, and the shard that may hold the next."""
        num_done = 0
        for index, client in shards:
            if num_done == len(chunks):
                break
            bulk = _bulk(chunks, num_done)
            try:
                # A shard that may have them already says so without room.
                room = len(bulk) if index == holder else sender.room(index, client, len(bulk))
                if room > 0:
                    num_new = sender.send(index, client, bulk[:room], first_sequence + num_done)
                    num_done += num_new
                    with self._lock:
                        self._turns[sender.table].give(index, num_new, self._weights(sender.table, dict(shards)))
            except ShardUnavailable:
                self._members.lost(index, client)
            except ShardSlow:
                return num_done, index  # It may have taken them: as long as it lives, no other shard may.
        return num_done, None

    def _in_turn(self, table: str, holder: int | None) -> list[tuple[int, ShardClient]]:
        """Live shards that take chunks, whose turn it is first; the holder alone as long as it lives.

        The holder is asked though it may drain: it acknowledges what it has taken already. Raises: UserError if all
        shards drain.
        """
        live = self._members.live()
        if holder is not None and holder in live:
            return [(holder, live[holder])]
        taking = self._members.taking(table)
        with self._lock:
            return [(index, taking[index]) for index in self._turns[table].order(self._weights(table, taking))]

    def _waits(
        self, table: str, shards: Sequence[tuple[int, ShardClient]], first_round: bool, seconds: float
    ) -> dict[int, float]:
        """How long to wait in line at each of these shards in a round, none longer than `seconds`."""
        if len(shards) == 1:
            return {shards[0][0]: min(_ONLY_SHARD_SECONDS, seconds)}
        if first_round:
            return dict.fromkeys((index for index, _ in shards), 0.0)
        parts = self._weights(table, dict(shards))
        total = sum(parts.values())
        waits = {index: max(_ROUND_SECONDS * part / total, _LEAST_SECONDS) for index, part in parts.items()}
        return {index: min(wait, _MOST_SECONDS, seconds) for index, wait in waits.items()}

    def _weights(self, table: str, shards: Mapping[int, ShardClient]) -> dict[int, float]:
        known = {index: self._members.known(index, client, table) for index, client in shards.items()}
        return weights(known, self._chunk_steps)

    def _timeout(self, table: str, what: str) -> ReplayTimeout:
        if not self._members.live():
            return ReplayTimeout(f"{self._members.why_none(table)}; {what}")
        return ReplayTimeout(f"table {table!r}: {what}, the limiter takes no more before samples", "room")

    def _remember(self, key: tuple[str, str, int], num_done: int, holder: int | None) -> None:
        with self._lock:
            self._unfinished[key] = (num_done, holder)
            if len(self._unfinished) > _MAX_UNFINISHED:
                self._unfinished.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Sender:
    """The calls of one round of one insert.

    Attributes:
      start: when the insert began, on the monotonic clock.
      waits: by shard, the longest it is asked to hold the call back until there is room, in seconds.
      may_presume: chunks may be sent without asking where much room is known to be.
    """

    members: Membership
    table: str
    writer_id: str
    chunk_steps: int
    start: float
    waits: Mapping[int, float]
    may_presume: bool

    def room(self, index: int, client: ShardClient, num_chunks: int) -> int:
        """For how many of these chunks this shard has room. Raises ShardUnavailable."""
        stats = self.members.known(index, client, self.table)
        if self.may_presume and stats is not None and _is_roomy(stats.flow, num_chunks * self.chunk_steps):
            return num_chunks  # if others were quicker, the shard refuses
        try:
            granted, stats = client.reserve(
                self.table,
                num_chunks,
                writer_id=self.writer_id,
                wait_seconds=self.waits[index],
                waited_seconds=time.monotonic() - self.start,
                timeout_seconds=self.waits[index] + CALL_SECONDS,
            )
        except ShardSlow as error:  # Nothing has been sent, so nothing can have been taken.
            raise ShardUnavailable(str(error)) from error
        self.members.observe(index, client, self.table, stats)
        return granted

    def send(self, index: int, client: ShardClient, chunks: Sequence[bytes], first_sequence: int) -> int:
        """How many of the first chunks the shard has now. Raises ShardUnavailable or ShardSlow."""
        accepted, stats = client.insert(
            self.table,
            chunks,
            writer_id=self.writer_id,
            first_sequence=first_sequence,
            max_priority=self.members.max_priority(self.table),
            timeout_seconds=CALL_SECONDS,
        )
        self.members.observe(index, client, self.table, stats)
        return accepted


def _is_roomy(flow: Flow, num_transitions: int) -> bool:
    """Whether so many leave half the buffer free: where others wait for room, it is full."""
    return flow.after_insert(num_transitions).surplus <= flow.error_buffer_steps / 2


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
