"""What the limiters of the shards let one client sample, and its waits for it."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from replay_service.client.membership import CALL_SECONDS, Membership, Shards, seconds_left
from replay_service.client.turns import Turns, weights
from replay_service.table.rate_limiter import Flow
from replay_service.table.table_stats import total_stats
from replay_service.table.types import ReplayTimeout
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from upcycle.errors import UserError
from upcycle.runs.metrics import Metrics

_PAUSE_SECONDS: Final = 0.02
_WAIT_SECONDS: Final = 0.2  # the longest a shard is asked to hold a call back; then the others get their turn

_Drawn = TypeVar("_Drawn")


class SampleAdmission:
    """Collects admitted samples, from the shards by turns, each as far as it has room. Thread-safe.

    What has been admitted for a batch that then came to nothing is kept for the next one: it has been counted.

    Args:
      chunk_steps: transitions of a chunk at the most.
      first_turn: which shard is first; give every client another, so that learners spread.
    """

    def __init__(self, members: Membership, metrics: Metrics | None, *, chunk_steps: int, first_turn: int) -> None:
        self._members, self._metrics, self._chunk_steps = members, metrics, chunk_steps
        self._lock = threading.Lock()  # guards those below
        self._kept: dict[str, int] = {}
        self._begun = set[str]()  # tables of which samples have been admitted
        self._turns = defaultdict[str, Turns](lambda: Turns(first_turn))  # by table
        self._waits = first_turn

    def take_kept(self, table: str, num_samples: int) -> int:
        """Takes back what was kept, at most so many."""
        with self._lock:
            taken = min(self._kept.get(table, 0), num_samples)
            self._kept[table] = self._kept.get(table, 0) - taken
            return taken

    def keep(self, table: str, num_samples: int) -> None:
        """Keeps admitted samples for a later batch."""
        with self._lock:
            self._kept[table] = self._kept.get(table, 0) + num_samples

    def draw_when_admitted(
        self,
        wanted: Mapping[str, int],
        draw: Callable[[Mapping[str, Shards]], _Drawn | None],
        *,
        n_step: int,
        timeout_seconds: float,
    ) -> _Drawn:
        """Has so many samples of each table admitted, and then returns what `draw` makes of the tables' shards.

        Each table's own limiter decides. Where some table holds back, or there is nothing to draw from (`draw` gives
        None), everything that has been admitted is kept for the next call.

        Raises: ReplayTimeout if that did not come about in time; UserError for a limiter that could never let so many
          samples pass.
        """
        deadline = time.monotonic() + timeout_seconds
        held = {table: self.take_kept(table, num_samples) for table, num_samples in wanted.items()}
        try:
            while True:
                shards = {table: self._members.tables(table, n_step=n_step) for table in wanted}
                for table, num_samples in wanted.items():
                    held[table] += self.ask(table, num_samples - held[table], shards[table])
                if held == wanted:
                    drawn = draw(shards)
                    if drawn is not None:
                        held = {}
                        return drawn
                table = _holding_back(wanted, held, shards)
                if time.monotonic() >= deadline:
                    if not shards[table]:
                        raise ReplayTimeout(self._members.why_none(table))
                    raise ReplayTimeout(why_not(table, shards[table]), "samples")
                wait_seconds = min(_WAIT_SECONDS, seconds_left(deadline))
                held[table] += self.wait(table, wanted[table] - held[table], shards[table], wait_seconds)
        finally:
            for table, num_samples in held.items():
                self.keep(table, num_samples)

    def ask(self, table: str, num_samples: int, shards: Shards) -> int:
        """Asks the shards by turns, without waiting, until enough is admitted; returns how much that is.

        Those that are known to have no room come last: what came in a moment ago may have made some. Nothing is
        admitted before there is enough to begin with, over all shards. Raises: UserError if, to begin with, the limiter
        could not hold so many samples.
        """
        flow = _total(shards)
        if flow is None or not flow.is_filled or num_samples == 0:
            return 0
        if flow.samples_per_insert is None:
            return num_samples
        # Later it may be less, as shards leave with their part of it; then a request is admitted in several turns.
        if num_samples > flow.error_buffer_steps * flow.samples_per_insert and table not in self._begun:
            raise UserError(
                "replay.error_buffer_steps",
                flow.error_buffer_steps,
                f"x {flow.samples_per_insert} samples per insert is below what is drawn together, {num_samples}",
                "raise it, or lower learner.batch_size or learner.batches_per_request",
            )
        with self._lock:
            order = self._turns[table].order(self._weights(shards))
        num_admitted = 0
        for index in sorted(order, key=lambda index: shards[index][1].flow.room_for_samples(1) == 0):
            if num_admitted < num_samples:
                num_admitted += self._ask_one(table, num_samples - num_admitted, index, shards, 0.0)
        if num_admitted:
            with self._lock:
                self._begun.add(table)
        return num_admitted

    def wait(self, table: str, num_samples: int, shards: Shards, wait_seconds: float) -> int:
        """Waits for room or for chunks, at one shard by turns; returns what is admitted meanwhile."""
        start, flow, num_admitted = time.monotonic(), _total(shards), 0
        if flow is None:
            self._members.wait(wait_seconds)
        else:
            # At a shard that drains nothing comes in; what it still owes it gives to `ask`.
            taking = [index for index, (_, stats) in shards.items() if not stats.draining] or list(shards)
            with self._lock:
                self._waits += 1
                index = taking[self._waits % len(taking)]
            patience = wait_seconds / 4  # then another one gets its turn
            if flow.is_filled and flow.samples_per_insert is not None and num_samples > 0:
                num_admitted = self._ask_one(table, num_samples, index, shards, patience)
                went_on = num_admitted > 0
            else:
                went_on = self._wait_for_chunks(table, shards, index, patience)
            if not went_on and time.monotonic() - start < patience:  # the shard had too many waiting already
                self._members.wait(min(_PAUSE_SECONDS, wait_seconds))
        if self._metrics is not None:
            self._metrics.increment("replay_sample_wait_seconds_total", time.monotonic() - start)
        return num_admitted

    def _ask_one(self, table: str, num_samples: int, index: int, shards: Shards, wait_seconds: float) -> int:
        client = shards[index][0]
        try:
            num_admitted, stats = client.admit(
                table, num_samples, wait_seconds=wait_seconds, timeout_seconds=wait_seconds + CALL_SECONDS
            )
        except (ShardUnavailable, ShardSlow):
            self._members.lost(index, client)
            return 0
        self._members.observe(index, client, table, stats)
        if num_admitted:
            with self._lock:
                self._turns[table].give(index, num_admitted, self._weights(shards))
        return num_admitted

    def _weights(self, shards: Shards) -> dict[int, float]:
        return weights({index: stats for index, (_, stats) in shards.items()}, self._chunk_steps)

    def _wait_for_chunks(self, table: str, shards: Shards, waiting: int, wait_seconds: float) -> bool:
        """Looks at all shards, waiting at one of them; returns whether chunks have come in, or a shard was lost."""
        changed = False
        for index, (client, stats) in shards.items():
            patience = wait_seconds if index == waiting else 0.0
            fresh = self._members.refresh(index, client, table, known_revision=stats.revision, wait_seconds=patience)
            changed = changed or fresh is None or fresh.revision != stats.revision
        return changed


def _holding_back(wanted: Mapping[str, int], held: Mapping[str, int], shards: Mapping[str, Shards]) -> str:
    """The table to wait for: the first that lets too little through, or else the first that has nothing to draw."""
    short = [table for table, num_samples in wanted.items() if held[table] < num_samples]
    asked = [table for table, num_samples in wanted.items() if num_samples > 0]
    empty = [table for table in asked if not any(stats.mass > 0 for _, stats in shards[table].values())]
    return next(iter((*short, *empty, *wanted)))


def _total(shards: Shards) -> Flow | None:
    """The accounts of all shards added up; None if there is no shard."""
    return total_stats({index: stats for index, (_, stats) in shards.items()}).flow if shards else None


def why_not(table: str, shards: Shards) -> str:
    """Why nothing can be sampled, though there are shards, in one line."""
    flow = total_stats({index: stats for index, (_, stats) in shards.items()}).flow
    if flow.num_transitions < flow.min_size_to_sample:
        return f"table {table!r}: {flow.num_transitions} of {flow.min_size_to_sample} transitions to begin with"
    return (
        f"table {table!r}: {flow.num_transitions} transitions, sampling waits for inserts (surplus {flow.surplus:.0f})"
    )
