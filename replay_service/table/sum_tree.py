"""A sum tree over non-negative weights: draw by weight and change weights in O(log n), vectorised over the batch.

Source: Schaul et al. 2016 (arXiv 1511.05952), appendix B.2.1. Parents are always recomputed from their children,
never corrected by a difference: each node is a function of the weights below it alone, and there is no drift to repair.
What rounding is left is that of adding up n weights in pairs: the total is within log2(n) x 2^-53 of the true one,
relatively, however often weights have changed and whatever they were before.
"""

import numpy as np

from upcycle.experience.chunks import Array


class SumTree:
    """Weights of `num_leaves` items, float64, all 0 at first.

    Node 1 is the root, node i has the children 2 i and 2 i + 1, and item j is node `capacity + j`, where the capacity
    is the next power of two.
    """

    def __init__(self, num_leaves: int) -> None:
        if num_leaves < 1:
            raise ValueError(f"num_leaves = {num_leaves}: a tree has at least one leaf")
        self.num_leaves = num_leaves
        self._depth = (num_leaves - 1).bit_length()
        self._capacity = 1 << self._depth
        self._nodes = np.zeros(2 * self._capacity, np.float64)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    @property
    def weights(self) -> Array:
        """All weights, float64 [num_leaves]; a view for reading."""
        view = self._nodes[self._capacity : self._capacity + self.num_leaves]
        view.flags.writeable = False
        return view

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory that all nodes take."""
        return self._nodes.nbytes

    def set(self, items: Array, weights: Array) -> None:
        """Gives items, int64 [B], new weights, float64 [B]; of an item named twice the last weight stays."""
        nodes = items + self._capacity
        self._nodes[nodes] = weights
        # Shared parents are written more than once: finding the distinct ones costs several times as much.
        for _ in range(self._depth):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def set_range(self, start: int, weights: Array) -> None:
        """Gives the items from `start` on new weights, float64 [M], M >= 1; cheaper than `set` for neighbours."""
        low = start + self._capacity
        high = low + len(weights) - 1
        self._nodes[low : high + 1] = weights
        for _ in range(self._depth):
            low, high = low >> 1, high >> 1
            children = self._nodes[2 * low : 2 * high + 2]
            np.add(children[::2], children[1::2], out=self._nodes[low : high + 1])

    def find(self, positions: Array) -> Array:
        """Items at which the running sum of the weights passes `positions`, float64 [B] in [0, total).

        Guarantee: while `total` is above 0, every item found has a weight above 0, also at the mercy of rounding.
        Returns: int64 [B].
        """
        rest = positions.astype(np.float64)
        nodes = np.ones(len(rest), np.int64)
        for _ in range(self._depth):
            left = self._nodes[2 * nodes]
            right = (rest >= left) & (self._nodes[2 * nodes + 1] > 0)
            rest -= np.where(right, left, 0.0)
            nodes = 2 * nodes + right
        return nodes - self._capacity

    def check_invariants(self) -> None:
        """Raises AssertionError if a weight is negative or a node is not the sum of its children."""
        assert bool((self._nodes >= 0).all()), "negative weight"
        inner = self._nodes[1 : self._capacity]
        children = self._nodes[2:].reshape(-1, 2)
        assert np.array_equal(inner, children[:, 0] + children[:, 1]), "node is not the sum of its children"
        assert not self._nodes[self._capacity + self.num_leaves :].any(), "weight beyond the last leaf"
