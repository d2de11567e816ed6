"""Which shards there are, which of them answer, and what their tables held when they last did."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from replay_service.client.shard_client import ShardClient
from replay_service.table.table_stats import TableStats
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UpcycleError, UserError
from upcycle.experience.chunks import ChunkSpec

_LOOK_SECONDS: Final = 0.5
_PROBE_SECONDS: Final = 1.0
_RETURN_SECONDS: Final = 3.0  # a shard that was only slow to answer a probe has answered the next one or two by then
_RETIRED_SECONDS: Final = 10.0  # calls to a shard that has left may still be under way for so long
_CONNECTING: Final = "failed to connect to all addresses; last error: "  # gRPC's words before the reason
CALL_SECONDS: Final = 5.0
"""Deadline of a call that a healthy shard answers in milliseconds."""
Shards = Mapping[int, tuple[ShardClient, TableStats]]
"""Live shards, with the newest known counters of one table."""


@dataclass(slots=True)
class Member:
    """One announced shard: its client, and by table its newest counters. `live` is false after a failed call.

    Attributes:
      reason: why the newest probe failed, if it did.
    """

    client: ShardClient
    live: bool = True
    lost_at: float = 0.0
    reason: str = ""
    tables: dict[str, TableStats] = field(default_factory=dict[str, TableStats])


class Membership:
    """Follows the announced endpoints; thread-safe.

    A shard whose call failed is left out until it answers a probe, at its old address or a newly announced one. One
    thread reads the endpoints and probes, twice a second and at once after a loss; it also refreshes the counters of
    shards that nobody has talked to, so that a shard which was empty is noticed when it fills.

    A shard whose endpoint is withdrawn gets no further call, but those under way to it are let finish: it leaves
    between two requests.

    Args:
      endpoints: shard index to address, read anew each time.
    """

    def __init__(self, endpoints: Callable[[], Mapping[int, str]], spec: ChunkSpec) -> None:
        self._endpoints, self._spec = endpoints, spec
        self._members: dict[int, Member] = {}
        self._retired: list[tuple[float, ShardClient]] = []  # when each may be closed; of the thread alone
        self._changed = threading.Condition()
        self._watched: dict[str, int] = {}  # table -> n-step length of its views
        self._max_priority: dict[str, float] = {}
        self._wake, self._stop = threading.Event(), threading.Event()
        self._follow_endpoints()
        self._thread = threading.Thread(target=self._run, name="replay-membership", daemon=True)
        self._thread.start()

    def live(self) -> dict[int, ShardClient]:
        """Shards that answer, as far as is known."""
        with self._changed:
            return {index: member.client for index, member in sorted(self._members.items()) if member.live}

    def taking(self, table: str) -> dict[int, ShardClient]:
        """Live shards that take chunks, as far as is known. Raises: UserError if all that are announced drain."""
        with self._changed:
            members = sorted(self._members.items())
            draining = {index for index, member in members if member.live and _drains(member, table)}
            if members and len(draining) == len(members):
                raise UserError(
                    "replay shards",
                    sorted(draining),
                    "are all draining, so there is none to take chunks",
                    "let another shard join, or cancel a drain",
                )
            return {index: member.client for index, member in members if member.live and index not in draining}

    def why_none(self, table: str) -> str:
        """Why there is no shard to ask about a table, in one line."""
        with self._changed:
            reasons = {member.client.address: member.reason for member in self._members.values()}
        known = next(filter(None, reasons.values()), ", ".join(reasons))
        known = known.replace(_CONNECTING, "")
        return f"table {table!r}: no replay shard answers ({known or 'none is announced'})"

    def announced(self) -> dict[int, ShardClient]:
        """All announced shards, whether they answer or not."""
        with self._changed:
            return {index: member.client for index, member in sorted(self._members.items())}

    def tables(self, table: str, *, n_step: int = 0) -> dict[int, tuple[ShardClient, TableStats]]:
        """Live shards with the newest known counters of a table.

        Args:
          n_step: of which the masses must be; a shard of which others are known, or none, is asked.
        """
        known = dict[int, tuple[ShardClient, TableStats]]()
        for index, client in self.live().items():
            stats = self.known(index, client, table)
            if stats is None or n_step not in (0, stats.n_step):
                stats = self.refresh(index, client, table, n_step=n_step)
            if stats is not None:
                known[index] = (client, stats)
        return known

    def refresh(
        self,
        index: int,
        client: ShardClient,
        table: str,
        *,
        n_step: int = 0,
        known_revision: int = 0,
        wait_seconds: float = 0.0,
    ) -> TableStats | None:
        """Asks a shard for its counters, waiting for a new revision if told to; None, and lost, if it fails."""
        try:
            stats = client.stats(
                table,
                n_step=n_step,
                known_revision=known_revision,
                wait_seconds=wait_seconds,
                timeout_seconds=CALL_SECONDS,
            )
        except (ShardUnavailable, ShardSlow):
            self.lost(index, client)
            return None
        self.observe(index, client, table, stats)
        with self._changed:  # Only now: a table that no shard has must not be asked for ever again.
            self._watched[table] = n_step or self._watched.get(table, 0)
        return stats

    def observe(self, index: int, client: ShardClient, table: str, stats: TableStats) -> None:
        """Takes note of counters that came with a reply; replies that overtook each other are put right."""
        with self._changed:
            self._max_priority[table] = max(self._max_priority.get(table, 0.0), stats.max_priority)
            if stats.draining:  # Who only inserts talks to it no more, and must hear when the drain is cancelled.
                self._watched.setdefault(table, 0)
            member = self._members.get(index)
            if member is None or member.client is not client:
                return
            old = member.tables.get(table)
            if old is None or old.incarnation != stats.incarnation or _is_newer(stats, old):
                member.tables[table] = stats

    def known(self, index: int, client: ShardClient, table: str) -> TableStats | None:
        """The newest counters that have come with a reply; None if there were none. Asks nobody."""
        with self._changed:
            member = self._members.get(index)
            return member.tables.get(table) if member is not None and member.client is client else None

    def max_priority(self, table: str) -> float:
        """The highest priority that any shard has told of. Requests carry it on, so that all shards rank alike."""
        with self._changed:
            return self._max_priority.get(table, 0.0)

    def lost(self, index: int, client: ShardClient) -> None:
        """Takes note that a call to this shard failed."""
        with self._changed:
            member = self._members.get(index)
            if member is not None and member.client is client:
                if member.live:
                    member.live, member.lost_at = False, time.monotonic()
                member.tables.clear()
        self._wake.set()

    def await_return(self) -> None:
        """Waits for announced shards that were lost a moment ago, so that a moment's silence changes no draw.

        Three seconds after its loss a shard is waited for no more.
        """
        with self._changed:
            while not self._stop.is_set():
                lost = [member.lost_at for member in self._members.values() if not member.live]
                seconds = seconds_left(max(lost, default=-_RETURN_SECONDS) + _RETURN_SECONDS)
                if seconds == 0:
                    return
                self._changed.wait(min(seconds, _LOOK_SECONDS))

    def wait(self, timeout_seconds: float) -> None:
        """Waits until a shard has come (back), for a time at the most."""
        with self._changed:
            self._changed.wait(timeout_seconds)

    def close(self) -> None:
        """Closes all connections and joins the thread. Safe to call twice."""
        self._stop.set()
        self._wake.set()
        with self._changed:
            members = list(self._members.values())
            self._members.clear()
        for member in members:
            member.client.close()
        self._thread.join()
        self._close_retired(everything=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            if not self._stop.is_set():
                self._follow_endpoints()
                self._probe()
                self._close_retired()
                self._stop.wait(0.05)  # a shard that stays away is not probed in a tight loop

    def _follow_endpoints(self) -> None:
        try:
            announced = dict(self._endpoints())
        except (OSError, UpcycleError):  # Unreadable for a moment: what is known stays.
            return
        close_at = time.monotonic() + _RETIRED_SECONDS
        with self._changed:
            if self._stop.is_set():
                return
            for index in list(self._members):
                if announced.get(index) != self._members[index].client.address:
                    self._retired.append((close_at, self._members.pop(index).client))
            for index, address in announced.items():
                if index not in self._members:
                    self._members[index] = Member(ShardClient(address, self._spec))
                    self._changed.notify_all()

    def _close_retired(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        due = [client for close_at, client in self._retired if everything or close_at <= now]
        self._retired = [(close_at, client) for close_at, client in self._retired if not everything and close_at > now]
        for client in due:
            client.close()

    def _probe(self) -> None:
        with self._changed:
            members, watched = list(self._members.items()), dict(self._watched)
        for index, member in members:
            try:
                for table, n_step in watched.items():
                    stats = member.client.stats(table, n_step=n_step, timeout_seconds=_PROBE_SECONDS)
                    self.observe(index, member.client, table, stats)
                if not member.live:
                    member.client.check_health(timeout_seconds=_PROBE_SECONDS)
            except (UpcycleError, ValueError) as error:  # Away, slow, or not the kind of shard that it should be.
                member.reason = str(error)
                self.lost(index, member.client)
                self._wake.clear()
                continue
            member.reason = ""
            if not member.live:
                with self._changed:
                    member.live = True
                    self._changed.notify_all()


def _drains(member: Member, table: str) -> bool:
    return table in member.tables and member.tables[table].draining


def _is_newer(stats: TableStats, old: TableStats) -> bool:
    return stats.revision >= old.revision and stats.num_sampled >= old.num_sampled


def seconds_left(deadline: float) -> float:
    """Seconds until `deadline` on the monotonic clock, 0 once it has passed."""
    return max(deadline - time.monotonic(), 0.0)
