"""What the shards of a run hold together, made of what each of them says. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from upcycle.runs.run_folder import Record

Detail = Mapping[str, Any]
"""What `ShardLoop.status` says of one shard; empty before the first answer."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How alike the shards are that take chunks: of each figure the least and the most, of the table `online`.

    Attributes:
      num_shards: that have answered.
      transitions: held.
      fill: chunks held, of those that the shard can hold.
      oldest_seconds: since the oldest chunk came; None unless it is known of every shard.
    """

    num_shards: int
    transitions: tuple[int, int]
    fill: tuple[float, float]
    oldest_seconds: tuple[float, float] | None

    @property
    def ratio(self) -> float:
        """By how much the fullest shard is fuller than the emptiest, as a part of its capacity."""
        return self.fill[1] - self.fill[0]

    def to_json(self) -> Record:
        """JSON values, with `ratio`."""
        return {
            "num_shards": self.num_shards,
            "transitions": list(self.transitions),
            "fill": list(self.fill),
            "oldest_seconds": None if self.oldest_seconds is None else list(self.oldest_seconds),
            "ratio": self.ratio,
        }


def spread(details: Iterable[Detail]) -> Spread | None:
    """None if no shard that takes chunks has answered."""
    taking = [detail for detail in details if "fill" in detail and not detail.get("draining")]
    if not taking:
        return None
    sizes = [int(detail["num_stored"]) for detail in taking]
    fills = [float(detail["fill"]) for detail in taking]
    ages = [float(detail["oldest_seconds"]) for detail in taking if detail.get("oldest_seconds") is not None]
    return Spread(
        num_shards=len(taking),
        transitions=(min(sizes), max(sizes)),
        fill=(min(fills), max(fills)),
        oldest_seconds=(min(ages), max(ages)) if len(ages) == len(taking) else None,
    )


def in_words(values: Record) -> str:
    """`Spread.to_json` in a line."""
    low, high = values["transitions"]
    words = f"{values['num_shards']} shards hold {low:,} to {high:,} transitions, {values['fill'][0]:.0%} to "
    words += f"{values['fill'][1]:.0%} of what they can"
    if values["oldest_seconds"] is None:
        return words
    low, high = values["oldest_seconds"]
    return f"{words}; the oldest came {low:,.0f} to {high:,.0f} s ago"


def samples_per_insert(details: Iterable[Detail]) -> float | None:
    """Over all these shards, of the table `online`, since they were started; None if nothing was inserted."""
    counts = [
        (inserted := float(detail.get("num_inserted", 0.0)), inserted * float(detail.get("samples_per_insert", 0.0)))
        for detail in details
    ]
    total = sum(inserted for inserted, _ in counts)
    return sum(sampled for _, sampled in counts) / total if total else None
