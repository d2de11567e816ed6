"""Questions that go to every shard, and their answers."""

from replay_service.client.membership import CALL_SECONDS, Membership
from replay_service.table.table_stats import TableStats, total_stats
from replay_service.table.types import ReplayTimeout
from replay_service.wire.errors import ShardSlow, ShardUnavailable
from replay_service.wire.inspection_messages import TableInspection
from upcycle.errors import UpcycleError
from upcycle.experience.windows import View


def ask_stats(members: Membership, table: str) -> TableStats:
    """Fresh counters of a table, added up and by shard. Raises ReplayTimeout if no shard answers."""
    fresh = dict[int, TableStats]()
    for index, client in members.live().items():
        stats = members.refresh(index, client, table)
        if stats is not None:
            fresh[index] = stats
    if not fresh:
        raise ReplayTimeout(members.why_none(table))
    return total_stats(fresh)


def inspect_shards(
    members: Membership, table: str, num_windows: int, *, view: View
) -> dict[int, TableInspection | UpcycleError]:
    """See `ShardedReplay.inspect`."""
    answers = dict[int, TableInspection | UpcycleError]()
    for index, client in members.announced().items():
        try:
            answers[index] = client.inspect(table, num_windows, view=view, timeout_seconds=CALL_SECONDS)
        except (ShardUnavailable, ShardSlow) as error:
            answers[index] = error
    return answers
