"""Filling a table of several shards from an experience log, each shard its part, all at once."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from replay_service.client.membership import Membership, seconds_left
from replay_service.table.types import ReplayTimeout
from replay_service.wire.errors import ShardSlow, ShardUnavailable

_WAIT_SECONDS: Final = 0.2


def seed_shards(
    members: Membership,
    indices: Sequence[int],
    table: str,
    log_directory: Path,
    newest_transitions: int | None,
    *,
    timeout_seconds: float,
) -> int:
    """Lets each of these shards read its part of a log; one that is away is waited for, and asked again.

    Returns: transitions stored.
    Raises: UserError or CorruptDataError about the log; ReplayTimeout if a shard did not answer, or there is none.
    """
    deadline = time.monotonic() + timeout_seconds
    if not indices:
        raise ReplayTimeout(members.why_none(table))

    def seed_one(part: int) -> int:
        while True:
            client = members.live().get(indices[part])
            try:
                if client is not None:
                    return client.seed(
                        table,
                        log_directory,
                        shard_index=part,
                        num_shards=len(indices),
                        newest_transitions=newest_transitions,
                        timeout_seconds=max(seconds_left(deadline), 1.0),
                    )
            except (ShardUnavailable, ShardSlow):
                assert client is not None
                members.lost(indices[part], client)
            if time.monotonic() >= deadline:
                raise ReplayTimeout(f"table {table!r}: shard {indices[part]} was not seeded in {timeout_seconds} s")
            members.wait(_WAIT_SECONDS)

    with ThreadPoolExecutor(len(indices), thread_name_prefix="replay-seed") as threads:
        return sum(threads.map(seed_one, range(len(indices))))
