"""Samples per insert: one invariant over all shards, kept from both sides.

    | paced inserts x samples_per_insert - samples |  <=  error buffer x samples_per_insert

Inserts beyond the buffer wait for samples, samples beyond it wait for inserts. The transitions that bring a table up
to `min_size_to_sample` are free: nothing can be sampled yet, so no samples are owed for them. Seeded transitions count
towards the size alone.

A shard looks after its share of the buffer when it accepts inserts; whoever samples adds up the shards and looks after
the whole. Nobody waits for ever: if every shard refuses inserts, their surplus adds up to one that allows samples.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Flow:
    """What went into and out of one table: of a shard, or of several added up. Everything counts transitions.

    Attributes:
      num_transitions: stored now.
      num_free_inserts, num_paced_inserts: inserted since the start, without and with samples owed for them.
      num_sampled: sampled since the start.
      samples_per_insert: transitions sampled per paced insert; None lets both sides run free.
      error_buffer_steps: inserts that both sides may be apart from the ratio.
      min_size_to_sample: transitions stored before the first is sampled.
    """

    samples_per_insert: float | None
    error_buffer_steps: int
    min_size_to_sample: int
    num_transitions: int = 0
    num_free_inserts: int = 0
    num_paced_inserts: int = 0
    num_sampled: int = 0

    @property
    def num_inserted(self) -> int:
        """Transitions inserted since the start, without seeded ones."""
        return self.num_free_inserts + self.num_paced_inserts

    @property
    def surplus(self) -> float:
        """Paced inserts that samples have not caught up with; below 0, samples are ahead. 0 without a ratio."""
        if self.samples_per_insert is None:
            return 0.0
        return self.num_paced_inserts - self.num_sampled / self.samples_per_insert

    def may_insert(self, num_transitions: int) -> bool:
        """Whether so many more transitions keep within the buffer."""
        return self.after_insert(num_transitions).surplus <= self.error_buffer_steps or (
            self.num_transitions + num_transitions <= self.min_size_to_sample
        )

    def may_sample(self, batch_size: int) -> bool:
        """Whether so many more samples keep within the buffer, and there are enough transitions to begin with."""
        enough = self.num_transitions >= max(self.min_size_to_sample, 1)
        return enough and self.after_sample(batch_size).surplus >= -self.error_buffer_steps

    def after_insert(self, num_transitions: int) -> "Flow":
        """The flow once so many transitions have been inserted."""
        size = self.num_transitions + num_transitions
        paced = min(num_transitions, max(size - self.min_size_to_sample, 0))
        return replace(
            self,
            num_transitions=size,
            num_free_inserts=self.num_free_inserts + num_transitions - paced,
            num_paced_inserts=self.num_paced_inserts + paced,
        )

    def after_seed(self, num_transitions: int) -> "Flow":
        """The flow once so many transitions have been seeded."""
        return replace(self, num_transitions=self.num_transitions + num_transitions)

    def after_eviction(self, num_transitions: int) -> "Flow":
        """The flow once so many transitions have been dropped to make room."""
        return replace(self, num_transitions=self.num_transitions - num_transitions)

    def after_sample(self, batch_size: int) -> "Flow":
        """The flow once so many transitions have been sampled."""
        return replace(self, num_sampled=self.num_sampled + batch_size)

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(
            samples_per_insert=self.samples_per_insert,
            error_buffer_steps=self.error_buffer_steps + other.error_buffer_steps,
            min_size_to_sample=self.min_size_to_sample + other.min_size_to_sample,
            num_transitions=self.num_transitions + other.num_transitions,
            num_free_inserts=self.num_free_inserts + other.num_free_inserts,
            num_paced_inserts=self.num_paced_inserts + other.num_paced_inserts,
            num_sampled=self.num_sampled + other.num_sampled,
        )
