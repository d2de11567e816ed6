"""The shared memory that a table's arena lies in."""

import structlog

from replay_service.storage.arena import Arena
from replay_service.storage.shared_memory import SharedSegment, can_share
from replay_service.table.types import TableConfig
from replay_service.table.validation import num_slots_of
from upcycle.experience.chunks import ChunkSpec

_log = structlog.get_logger(__name__)


def arena_segment(config: TableConfig, spec: ChunkSpec) -> SharedSegment | None:
    """Shared memory for a table's arena; None where this system cannot share it, or the table will be refused."""
    if config.capacity_steps < 1 or config.annotation_width < 0 or not can_share():
        return None
    try:
        return SharedSegment(Arena.num_bytes(spec, num_slots_of(config, spec), config.annotation_width))
    except OSError as error:  # a sandbox without memfd: windows go over gRPC instead
        _log.warning("memory_not_shared", table=config.name, reason=str(error))
        return None
