"""Samples per insert: one invariant over all shards, kept from both sides.

    | paced inserts x samples_per_insert - samples |  <=  error buffer x samples_per_insert

Inserts beyond the buffer wait for samples, samples beyond it wait for inserts. The transitions that bring a table up
to `min_size_to_sample` are free: nothing can be sampled yet, so no samples are owed for them. Seeded transitions count
towards the size alone.

Each shard keeps its own account within its own share of the buffer, from both sides and under its lock; the shares add
up to the buffer, so the sum of all accounts keeps within it at every moment, whoever inserts and samples. A sample
counts at the shard that admits it, which need not be the one that it is drawn from: which shard gives a transition is a
matter of priority alone. Who deals both out over the shards is `turns`; whatever it does, nobody waits for ever: a
shard that refuses an insert has room for samples.

So the invariant holds for whatever shards there are, and needs no care when they come and go: the sum over any of them
keeps within the sum of their buffers. What has to be settled is the rest:

  - A shard that joins a table which has begun has a `min_size_to_sample` of 0: nothing it takes is free, and sampling
    does not stop until it is filled.
  - A shard that drains takes nothing more. It gives up what it lacks of its `min_size_to_sample`, which the others
    would wait for in vain, and admits the samples that it owes, none ahead: no insert would ever catch up with them.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Flow:
    """What went into and out of one table: of a shard, or of several added up. Everything counts transitions.

    Attributes:
      num_transitions: stored now.
      num_free_inserts, num_paced_inserts: inserted since the start, without and with samples owed for them.
      num_sampled: samples admitted since the start; without a ratio, samples drawn.
      samples_per_insert: transitions sampled per paced insert; None lets both sides run free.
      error_buffer_steps: inserts that both sides may be apart from the ratio.
      min_size_to_sample: transitions stored before the first is sampled.
      draining: takes no more inserts. Of several: all of them drain.
    """

    samples_per_insert: float | None
    error_buffer_steps: int
    min_size_to_sample: int
    num_transitions: int = 0
    num_free_inserts: int = 0
    num_paced_inserts: int = 0
    num_sampled: int = 0
    draining: bool = False

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
        """Whether so many more transitions keep within the buffer, and are taken at all."""
        return not self.draining and (
            self.after_insert(num_transitions).surplus <= self.error_buffer_steps
            or self.num_transitions + num_transitions <= self.min_size_to_sample
        )

    @property
    def is_filled(self) -> bool:
        """Whether there are enough transitions to begin with."""
        return self.num_transitions >= max(self.min_size_to_sample, 1)

    def may_sample(self, batch_size: int) -> bool:
        """Whether so many more samples keep within the buffer, and there are enough transitions to begin with."""
        return self.is_filled and self.after_sample(batch_size).surplus >= -self._samples_ahead

    @property
    def _samples_ahead(self) -> int:
        """Inserts' worth of samples that may be admitted before the inserts have come."""
        return 0 if self.draining else self.error_buffer_steps

    def room_for_samples(self, wanted: int) -> int:
        """How many of so many more samples keep within the buffer; whether there are enough transitions is left out."""
        if self.samples_per_insert is None:
            return wanted
        most = (self.num_paced_inserts + self._samples_ahead) * self.samples_per_insert - self.num_sampled
        room = min(max(math.floor(most), 0), wanted)
        while room > 0 and self.after_sample(room).surplus < -self._samples_ahead:  # as rounding has it
            room -= 1
        return room

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

    def after_drain(self, draining: bool) -> "Flow":
        """The flow once the table takes no more inserts, or takes them again."""
        lacking_none = min(self.min_size_to_sample, self.num_transitions)
        return replace(
            self, draining=draining, min_size_to_sample=lacking_none if draining else self.min_size_to_sample
        )

    def __add__(self, other: "Flow") -> "Flow":
        return Flow(
            samples_per_insert=self.samples_per_insert,
            error_buffer_steps=self.error_buffer_steps + other.error_buffer_steps,
            min_size_to_sample=self.min_size_to_sample + other.min_size_to_sample,
            num_transitions=self.num_transitions + other.num_transitions,
            num_free_inserts=self.num_free_inserts + other.num_free_inserts,
            num_paced_inserts=self.num_paced_inserts + other.num_paced_inserts,
            num_sampled=self.num_sampled + other.num_sampled,
            draining=self.draining and other.draining,
        )
