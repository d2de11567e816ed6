"""Which transitions are drawn: probability proportional to priority^exponent; exponent 0 is uniform.

Source: Schaul et al. 2016 (arXiv 1511.05952), proportional variant; stratified draws, where they are asked for, and a
maximum priority that never falls, as Dopamine has them.
"""

import numpy as np

from replay_service.table.sum_tree import SumTree
from upcycle.experience.chunks import Array


class PrioritySampler:
    """Priorities of `num_items` items, of which only the valid ones are ever drawn.

    Attributes:
      max_priority: the highest priority ever seen, at least 1; stands in for priorities that nobody has rated yet.
      num_valid: items that can be drawn.
    """

    def __init__(self, num_items: int, exponent: float, *, rng: np.random.Generator, stratified: bool = True) -> None:
        self._exponent, self._rng, self._stratified = exponent, rng, stratified
        self._priorities = np.zeros(num_items, np.float64)
        self._valid = np.zeros(num_items, bool)
        self._tree = SumTree(num_items)
        self.max_priority = 1.0
        self.num_valid = 0

    @property
    def valid(self) -> Array:
        """Which items can be drawn, bool [num_items]; a view for reading."""
        view = self._valid.view()
        view.flags.writeable = False
        return view

    @property
    def priorities(self) -> Array:
        """Priorities of all items, float64 [num_items], also of those that cannot be drawn; a view for reading."""
        view = self._priorities.view()
        view.flags.writeable = False
        return view

    @property
    def mass(self) -> float:
        """Sum of priority^exponent over the valid items."""
        return self._tree.total

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that all items take."""
        return self._priorities.nbytes + self._valid.nbytes + self._tree.memory_bytes

    def put(self, start: int, priorities: Array, valid: Array) -> None:
        """Replaces the items from `start` on.

        Args:
          priorities: float [M], >= 0; infinity stands for `max_priority`.
          valid: bool [M].
        """
        unrated = np.isinf(priorities)
        self.raise_max_priority(float(np.max(priorities, initial=0.0, where=~unrated)))
        items = slice(start, start + len(priorities))
        self._priorities[items] = np.where(unrated, self.max_priority, priorities)
        self.num_valid += int(np.count_nonzero(valid)) - int(np.count_nonzero(self._valid[items]))
        self._valid[items] = valid
        self._tree.set_range(start, self._weights(self._priorities[items], valid))

    def update(self, items: Array, priorities: Array) -> None:
        """Gives items, int64 [B], new priorities, float64 [B], finite and above 0; the last one of an item stays."""
        self.raise_max_priority(float(priorities.max(initial=0.0)))
        self._priorities[items] = priorities
        if self._exponent > 0:
            self._tree.set(items, self._weights(priorities, self._valid[items]))

    def mask(self, valid: Array) -> None:
        """Says anew which items can be drawn, bool [num_items]; priorities stay."""
        self._valid[:] = valid
        self.num_valid = int(np.count_nonzero(valid))
        self._tree.set_range(0, self._weights(self._priorities, self._valid))

    def raise_max_priority(self, priority: float) -> None:
        """Takes note of a priority seen here or elsewhere."""
        self.max_priority = max(self.max_priority, priority)

    def draw(self, batch_size: int, *, rng: np.random.Generator | None = None) -> tuple[Array, Array]:
        """Draws with replacement: stratified, one item from each of `batch_size` equal parts of the mass, in the order
        of the items; or else independently.

        Guarantee: an item of probability p is expected batch_size x p times; stratified, it is drawn less than 2 times
        more or less often than that.
        Args:
          rng: draws with this generator and leaves the sampler's own alone.
        Returns: items int64 [B] and their probabilities float64 [B]. Nothing can be drawn from a mass of 0.
        """
        assert self.mass > 0
        assert batch_size > 0
        positions = (rng or self._rng).random(batch_size)
        if self._stratified:
            positions = (np.arange(batch_size) + positions) / batch_size
        positions *= self.mass
        items = self._tree.find(positions)
        return items, self._tree.weights[items] / self.mass

    def check_invariants(self) -> None:
        """Raises AssertionError if weights, priorities and validity contradict each other."""
        self._tree.check_invariants()
        assert self.num_valid == int(np.count_nonzero(self._valid))
        assert np.array_equal(self._tree.weights, self._weights(self._priorities, self._valid))
        assert bool((self._priorities <= self.max_priority).all())

    def _weights(self, priorities: Array, valid: Array) -> Array:
        return np.where(valid, priorities**self._exponent, 0.0)
