"""Which replay shards a run has, and how that changes when somebody scales it. Pure: times in, another set out.

    join:   next index --> takes chunks
    leave:  the highest one drains --> the others are full, or its time is over --> it is gone

An index is never given twice, so that each shard has a log of its own: what a shard that left has logged stays part of
the run's experience, and no later shard takes it for its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from upcycle.config.run import RunConfig
from upcycle.runs.run_folder import Record, RunFolder


@dataclass(frozen=True, slots=True)
class ShardSet:
    """The replay shards of a run.

    Attributes:
      taking: indices of the shards that take chunks, ascending.
      draining: those that take none and will leave, with the time at which they leave at the latest, Unix seconds.
      next_index: of the next shard that joins.
      num_first: shards that this stretch of the run began with.
      first_joined: a shard of this index or above has joined during this stretch.
    """

    taking: tuple[int, ...]
    draining: Mapping[int, float]
    next_index: int
    num_first: int
    first_joined: int

    @classmethod
    def first(cls, num_shards: int) -> "ShardSet":
        """The set of a run that begins."""
        return cls(tuple(range(num_shards)), {}, num_shards, num_shards, num_shards)

    @classmethod
    def read(cls, folder: RunFolder, config: RunConfig) -> "ShardSet":
        """The set that the run's folder names; the configuration's, where the run has never been scaled."""
        record = folder.shards()
        return cls.first(config.replay.num_shards) if record is None else cls.from_json(record)

    @property
    def all(self) -> list[int]:
        """Indices of the shards that run, ascending."""
        return sorted((*self.taking, *self.draining))

    def has_joined(self, index: int) -> bool:
        """Whether this shard has come to a stretch that had begun."""
        return index >= self.first_joined

    def new_stretch(self) -> "ShardSet":
        """The same shards, at the beginning of another stretch of the run."""
        return replace(self, num_first=len(self.all), first_joined=self.next_index)

    def scaled_to(self, num_shards: int, *, leave_by: float) -> "ShardSet":
        """As many shards, above 0, that take chunks: more by cancelled drains and new shards, less by draining.

        Args:
          leave_by: when all that drain then leave at the latest, Unix seconds: the newest request decides.
        """
        taking, draining, next_index = list(self.taking), dict(self.draining), self.next_index
        while len(taking) > num_shards:
            draining[taking.pop()] = leave_by
        while len(taking) < num_shards:
            if draining:
                index = min(draining)
                del draining[index]
            else:
                index, next_index = next_index, next_index + 1
            taking = sorted((*taking, index))
        return replace(
            self, taking=tuple(taking), draining=dict.fromkeys(sorted(draining), leave_by), next_index=next_index
        )

    def leaving(self, details: Mapping[int, Mapping[str, Any]], *, now: float) -> list[int]:
        """Shards that may go now: the others hold as much as they ever will, or the time is over.

        None goes before it has said that it drains, since writers might still send it chunks.

        Args:
          details: of each shard that answers, what `ShardLoop.status` says.
          now: Unix seconds.
        """
        if not any(details.get(index) for index in self.taking):
            return []  # whoever leaves now would leave nobody
        are_full = all(details.get(index, {}).get("full") for index in self.taking)
        drained = [index for index in self.draining if details.get(index, {}).get("draining")]
        return [index for index in drained if are_full or now >= self.draining[index]]

    def without(self, index: int) -> "ShardSet":
        """The set once a shard that drained has gone."""
        return replace(self, draining={other: by for other, by in self.draining.items() if other != index})

    def to_json(self) -> Record:
        """JSON values."""
        return {
            "taking": list(self.taking),
            "draining": {str(index): leave_by for index, leave_by in self.draining.items()},
            "next_index": self.next_index,
            "num_first": self.num_first,
            "first_joined": self.first_joined,
        }

    @classmethod
    def from_json(cls, record: Record) -> "ShardSet":
        """Inverse of `to_json`."""
        draining = cast(dict[str, float], record["draining"])
        return cls(
            taking=tuple(record["taking"]),
            draining={int(index): leave_by for index, leave_by in draining.items()},
            next_index=record["next_index"],
            num_first=record["num_first"],
            first_joined=record["first_joined"],
        )
