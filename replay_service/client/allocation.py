"""How a batch is drawn from several shards as if they were one table. Pure.

Shard k, of mass T_k, is given the share q_k = T_k / sum T of each batch, and draws item i with p_i / T_k, so one draw
takes i with P(i) = q_k p_i / T_k. Masses change while requests are under way; P(i) is made of the share that was used
and the probability that the shard reports, so it stays the probability with which the item was really drawn.
"""

import numpy as np

from upcycle.experience.chunks import Array


def shares(masses: Array) -> Array:
    """Part of each batch that each shard is expected to give, float64 [K], summing to 1; some mass must be above 0."""
    return masses / masses.sum()


def split_batch(batch_size: int, parts: Array, rng: np.random.Generator, *, stratified: bool = True) -> Array:
    """Deals out `batch_size` draws to shards with these shares.

    Guarantee: the counts sum to `batch_size`, and shard k is expected batch_size x q_k times exactly; stratified, each
    count differs from that by less than 1 (systematic sampling), else it is that of independent draws (multinomial). A
    share of 0 gets nothing.
    Returns: int64 [K].
    """
    if not stratified:
        counts = np.zeros(len(parts), np.int64)
        some = parts > 0  # the multinomial draw gives what rounding leaves over to the last shard, whatever its share
        counts[some] = rng.multinomial(batch_size, parts[some] / parts[some].sum())
        return counts
    bounds = np.concatenate(([0.0], np.cumsum(parts) * batch_size))
    bounds[int(np.flatnonzero(parts)[-1]) + 1 :] = batch_size  # whatever rounding made of the last bounds
    return np.diff(np.minimum(np.floor(bounds + rng.random()), batch_size)).astype(np.int64)


def mixture_counts(parts: Array, batch_size: int, num_batches: int, rng: np.random.Generator) -> Array:
    """How many rows of each batch come from each of several tables with these shares.

    Guarantee: each batch has `batch_size` rows, of which table k is expected to give batch_size x q_k exactly; each
    count differs from that by less than 1, so it is exact where that is whole; and so does, from num_batches x
    batch_size x q_k, the number of all its rows together.
    Args:
      parts: q_k, float64 [K], summing to 1. What lies within rounding (1e-9 rows) of a whole number of rows is whole.
    Returns: int64 [num_batches, K].
    """
    bounds = np.concatenate(([0.0], np.cumsum(parts)[:-1], [1.0])) * batch_size
    whole = np.rint(bounds)
    bounds = np.where(np.abs(bounds - whole) < 1e-9, whole, bounds)
    # Systematic sampling within each batch; its starting points are spread evenly over the batches.
    starts = np.minimum((rng.permutation(num_batches) + rng.random()) / num_batches, np.nextafter(1.0, 0.0))
    below = np.floor(bounds)
    # floor(bounds + starts), but for the rounding of that sum: a whole bound stays what it is.
    return np.diff(below + (bounds - below + starts[:, None] >= 1), axis=1).astype(np.int64)


def importance_weights(probabilities: Array, num_items: int | Array, exponent: float) -> tuple[Array, float]:
    """(N P(i))^-beta divided by the largest of the batch, float32 [B], in (0, 1]; and that largest one.

    Args:
      probabilities: P(i) among the items of all shards, float64 [B], above 0.
      num_items: N, items that can be drawn, of all shards; int64 [B] where rows are of different tables.
    Source: Schaul et al. 2016 (arXiv 1511.05952), section 3.4.
    """
    weights = (num_items * probabilities) ** -exponent
    largest = float(weights.max(initial=0.0))
    return (weights / largest).astype(np.float32), largest
