"""The size of a table; configurations and keys that make no sense, and the errors that say so. Pure."""

from replay_service.table.types import TableConfig
from upcycle.errors import UserError
from upcycle.experience.chunks import Array, ChunkSpec


def num_slots_of(config: TableConfig, spec: ChunkSpec) -> int:
    """Slots of a table: its capacity in whole chunks."""
    return -(-config.capacity_steps // spec.steps)


def check_config(config: TableConfig, spec: ChunkSpec) -> None:
    """Raises UserError for a configuration that means nothing, or under which somebody would wait for ever."""
    if config.capacity_steps < 1:
        raise UserError(
            "replay.capacity_steps", config.capacity_steps, "a table holds one transition at least", "raise it"
        )
    if config.min_size_to_sample > config.capacity_steps:
        raise UserError(
            "replay.min_size_to_sample",
            config.min_size_to_sample,
            f"is above the capacity of {config.capacity_steps} steps, so sampling would never begin",
            "lower it or raise replay.capacity_steps",
        )
    if config.samples_per_insert is not None and config.error_buffer_steps < spec.steps:
        raise UserError(
            "replay.error_buffer_steps",
            config.error_buffer_steps,
            f"is, as the share of one shard, below one chunk of {spec.steps} steps, which would never be let in",
            "raise it, or lower replay.num_shards or replay.chunk_steps",
        )
    if config.samples_per_insert is not None and config.error_buffer_steps * config.samples_per_insert < 1:
        raise UserError(
            "replay.error_buffer_steps",
            config.error_buffer_steps,
            f"is, at {config.samples_per_insert} samples per insert, below one sample: a shard could refuse both sides",
            "raise it, or lower replay.num_shards",
        )
    if config.annotation_width < 0:
        raise UserError(
            "annotation_width",
            config.annotation_width,
            "is below 0",
            "give the floats of one annotation, or 0 for none",
        )


def check_keys(slots: Array, offsets: Array, num_slots: int, steps: int) -> None:
    """Raises ValueError if a key, int64 [B] each, lies outside a table of so many slots of so many steps."""
    inside = (slots >= 0) & (slots < num_slots) & (offsets >= 0) & (offsets < steps)
    if not bool(inside.all()):
        raise ValueError("keys lie outside the table")
