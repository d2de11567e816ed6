"""The tables of a run: what each shard of it keeps. Pure."""

from collections.abc import Sequence

from orchestrator.processes.shard_set import ShardSet
from replay_service.table.types import TableConfig
from upcycle.config.run import RunConfig
from upcycle.config.teacher_use import wants_teacher_values


def annotation_width(config: RunConfig, *, num_actions: int, num_teachers: int) -> int:
    """Floats beside each state: values of all teachers that are cacheable, if a loss term is made of them; else 0."""
    return num_actions * num_teachers if wants_teacher_values(config) else 0


def online_table(config: RunConfig, shards: ShardSet, index: int, *, width: int) -> TableConfig:
    """The student's own experience, as shard `index` keeps it; `width` is that of annotations."""
    replay = config.replay
    capacity_steps = -(-replay.capacity_steps // replay.num_shards)
    first = -(-replay.min_size_to_sample // shards.num_first)
    return TableConfig(
        name="online",
        capacity_steps=capacity_steps,
        sampler=replay.sampler,
        priority_exponent=replay.priority_exponent,
        stratified=replay.stratified,
        samples_per_insert=replay.samples_per_insert,
        error_buffer_steps=max(1, replay.error_buffer_steps // replay.num_shards),
        min_size_to_sample=0 if shards.has_joined(index) else min(first, capacity_steps),  # see `rate_limiter`
        tier=replay.tier,
        cold_cache_bytes=replay.cold_cache_bytes,
        annotation_width=width,
    )


def teacher_table(config: RunConfig, capacity_steps: int, *, width: int) -> TableConfig:
    """The teachers' buffers, as many steps of them as one shard keeps; always sampled uniformly."""
    return TableConfig(
        name="teacher",
        capacity_steps=max(capacity_steps, 1),
        sampler="uniform",
        priority_exponent=0.0,
        samples_per_insert=None,
        error_buffer_steps=1,
        min_size_to_sample=1,
        tier=config.replay.teacher_tier,
        cold_cache_bytes=config.replay.cold_cache_bytes,
        annotation_width=width,
    )


def share_capacity(sizes: Sequence[int], capacity: int) -> list[int]:
    """How much of each of several buffers fits into a capacity.

    All get the same, but none more than it has; what it leaves goes to the others. So the shares sum to the capacity,
    or to the sizes where those are less.
    """
    shares, left = [0] * len(sizes), min(capacity, sum(sizes))
    for rank, number in enumerate(sorted(range(len(sizes)), key=lambda number: sizes[number])):
        shares[number] = min(sizes[number], left // (len(sizes) - rank))
        left -= shares[number]
    return shares
